"""The adapters for the conformance kit: `set_adam` called eagerly, and compiled."""

import functools
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from setadam_conformance.protocol import OPTIONS, Capabilities, LayerState, Native, NumPyArray
from setadam_jax import ScaleBySetAdamState
from setadam_jax.conformance.devices import LAYOUTS, step_over_devices
from setadam_jax.conformance.steps import moments_of, one_step, optimizer_of, with_moments

_WIDE = ("float64", "complex128")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _jitted(hp: tuple[tuple[str, Any], ...], layer_axes: Any, params: Any, grads: Any, adam: Any) -> Any:
    return one_step(optimizer_of(dict(hp), layer_axes), params, grads, adam)


class EagerJAX:
    """`set_adam` called outside jit, operation by operation."""

    name = "jax:eager"
    framework = "jax"
    capabilities = Capabilities(
        dtypes=("float64", "float32", "bfloat16", "float16"),
        devices=("cpu", "gpu", "cuda"),
        options=OPTIONS - {"maximize"},
        stochastic_rounding="specified",
        flushes_subnormals=True,
        traced_t=True,
        largest_t=2**31 - 1,  # optax's counter
        compiles=True,
        cost=8,
        reloads=("pickle",),
    )

    def __init__(self, device: str = "cpu") -> None:
        platform, _, index = device.partition(":")  # of "cuda:0"
        if platform not in self.capabilities.devices:
            raise RuntimeError(f"{self.name} has no device {device!r}")
        found = jax.local_devices(backend=platform)  # RuntimeError if there is none
        if int(index or 0) >= len(found):
            raise RuntimeError(f"{self.name} has no device {device!r}, only {len(found)} of the platform")
        self.device = found[int(index or 0)]

    def from_numpy(self, x: NumPyArray) -> Native:
        with jax.enable_x64(str(x.dtype) in _WIDE):
            return jax.device_put(jnp.array(x, copy=True), self.device)

    def to_numpy(self, x: Native) -> NumPyArray:
        return np.asarray(x)

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        t = {state.t for state in states}
        if len(t) != 1:
            raise ValueError(f"states must have one step count between them, got {sorted(t)}")
        # JAX has float64 only with x64 on. Other dtypes are judged with x64 off, as users run them.
        with jax.enable_x64(any(str(p.dtype) in _WIDE for p in params)), jax.default_device(self.device):
            adam = ScaleBySetAdamState(jnp.asarray(t.pop(), jnp.int32), [s.m for s in states], [s.v for s in states])
            new, after = self._step(hp, tuple(layer_axes), list(params), list(grads), adam)
        moments = zip(after.mu, after.nu, strict=True)
        return new, [LayerState(m, v, int(after.count)) for m, v in moments]

    def _step(self, hp: Any, layer_axes: Any, params: Any, grads: Any, adam: Any) -> Any:
        return one_step(optimizer_of(hp, layer_axes), params, grads, adam)

    def reload(
        self, how: str, params: Sequence[Native], states: Sequence[LayerState], hp: Mapping[str, Any]
    ) -> list[LayerState]:
        """Pickle the whole optimizer state during a run."""
        if how != "pickle":
            raise ValueError(f"how must be one of {self.capabilities.reloads}, got {how!r}")
        with jax.enable_x64(any(str(p.dtype) in _WIDE for p in params)):
            adam = ScaleBySetAdamState(
                jnp.asarray(states[0].t, jnp.int32), [s.m for s in states], [s.v for s in states]
            )
            state = with_moments(optimizer_of(hp, [None] * len(params)).init(list(params)), adam)
            after = moments_of(pickle.loads(pickle.dumps(state)))
        return [LayerState(m, v, int(after.count)) for m, v in zip(after.mu, after.nu, strict=True)]


class JittedJAX(EagerJAX):
    """`set_adam` under jit, with the hyperparameters as constants of the program; and on several devices."""

    name = "jax:jit"
    capabilities = Capabilities(
        dtypes=EagerJAX.capabilities.dtypes,
        devices=EagerJAX.capabilities.devices,
        options=EagerJAX.capabilities.options,
        stochastic_rounding="specified",
        flushes_subnormals=True,
        recomputes_moments=True,
        traced_t=True,
        largest_t=2**31 - 1,  # optax's counter
        compiles=True,
        cost=4,
        reloads=EagerJAX.capabilities.reloads,
        layouts=LAYOUTS,
    )

    def _step(self, hp: Any, layer_axes: Any, params: Any, grads: Any, adam: Any) -> Any:
        return _jitted(tuple(sorted(hp.items())), layer_axes, params, grads, adam)

    def step_sharded(
        self,
        layout: str,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        read, write = self.to_numpy, self.from_numpy
        moments = [LayerState(read(s.m), read(s.v), s.t) for s in states]
        sent = ([read(p) for p in params], [read(g) for g in grads], moments, dict(hp), list(layer_axes))
        new, after = step_over_devices(layout, *sent)
        return [write(p) for p in new], [LayerState(write(s.m), write(s.v), s.t) for s in after]
