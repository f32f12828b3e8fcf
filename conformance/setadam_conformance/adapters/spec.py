"""The specification itself as a backend: it must pass before others are compared with it. One adapter for each array
namespace, and one for JAX's compiler.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from setadam_conformance.cases.case import copied
from setadam_conformance.protocol import Capabilities, LayerState, Native, NumPyArray
from setadam_core import Hyperparameters, Rounding, State, step
from setadam_core.layers import check_layer
from setadam_core.rounding import check_seed

_STATIC = ("decoupled_weight_decay", "maximize", "cos_power", "eps_inside_sqrt")
_ALL_DTYPES = ("float64", "float32", "bfloat16", "float16")


class NumPySpec:
    """setadam_core under NumPy; the base of the other namespaces."""

    name = "spec:numpy"
    framework = "numpy"
    capabilities = Capabilities(dtypes=_ALL_DTYPES, stochastic_rounding="specified")

    def __init__(self, device: str = "cpu") -> None:
        if device not in self.capabilities.devices:
            raise RuntimeError(f"{self.name} has no device {device!r}")

    def from_numpy(self, x: NumPyArray) -> Native:
        return copied(x)

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
        options = dict(hp)
        seed = check_seed(options.pop("stochastic_rounding", False))
        checked = Hyperparameters(**options)
        if not len(params) == len(grads) == len(states) == len(layer_axes):
            raise ValueError("params, grads, states and layer_axes must have one entry for each layer")
        new = [
            self._step(p, g, State(*s), checked, axes, None if seed is None else Rounding(seed, i))
            for i, (p, g, s, axes) in enumerate(zip(params, grads, states, layer_axes, strict=True))
        ]
        return [p for p, _ in new], [LayerState(s.m, s.v, int(s.t)) for _, s in new]

    def _step(
        self, param: Native, grad: Native, state: State, hp: Hyperparameters, axes: Any, rounding: Rounding | None
    ) -> tuple[Native, State]:
        return step(param, grad, state, hp, layer_axes=axes, rounding=rounding)


class StrictSpec(NumPySpec):
    """Under array-api-strict at its strictest, which shows that the specification uses only the standard."""

    name = "spec:strict"
    framework = "strict"
    capabilities = Capabilities(dtypes=("float64", "float32"), cost=2)

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        import array_api_strict

        array_api_strict.set_array_api_strict_flags(
            boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
        )
        self._xp = array_api_strict

    def from_numpy(self, x: NumPyArray) -> Native:
        return self._xp.asarray(x, copy=True)

    def to_numpy(self, x: Native) -> NumPyArray:
        return np.asarray(np.from_dlpack(x))


class DaskSpec(NumPySpec):
    """Under dask.array, in two chunks along the first axis where it is longer than one."""

    name = "spec:dask"
    framework = "dask"
    capabilities = Capabilities(dtypes=("float64", "float32"), cost=20)

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        import dask
        from dask import array

        dask.config.set(scheduler="synchronous")
        self._from_array: Any = array.from_array

    def from_numpy(self, x: NumPyArray) -> Native:
        chunks = ((x.shape[0] + 1) // 2, *x.shape[1:]) if x.ndim and x.size > 1 else -1
        return self._from_array(x.copy(), chunks=chunks)

    def to_numpy(self, x: Native) -> NumPyArray:
        return np.asarray(x.compute())


class TorchSpec(NumPySpec):
    """Under torch, eagerly, on any device."""

    name = "spec:torch"
    framework = "torch"

    def __init__(self, device: str = "cpu") -> None:
        import torch

        if device.startswith("cuda") and not torch.cuda.is_available():
            raise RuntimeError(f"torch finds no {device}")
        self._xp, self._device = torch, device

    capabilities = Capabilities(dtypes=_ALL_DTYPES, devices=("cpu", "cuda:0"), stochastic_rounding="specified", cost=2)

    def from_numpy(self, x: NumPyArray) -> Native:
        if str(x.dtype) == "bfloat16":  # torch does not know ml_dtypes, so the bits are passed as int16
            return self._xp.from_numpy(copied(x.view(np.int16))).view(self._xp.bfloat16).to(self._device)
        return self._xp.from_numpy(copied(x)).to(self._device)

    def to_numpy(self, x: Native) -> NumPyArray:
        x = x.detach().cpu()
        if x.dtype is self._xp.bfloat16:
            import ml_dtypes

            return np.asarray(x.view(self._xp.int16).numpy().view(ml_dtypes.bfloat16))
        return np.asarray(x.resolve_conj().resolve_neg().numpy())


class JaxSpec(NumPySpec):
    """Under jax.numpy, operation by operation. XLA's CPU code flushes subnormals."""

    name = "spec:jax"
    framework = "jax"
    capabilities = Capabilities(
        dtypes=_ALL_DTYPES,
        devices=("cpu", "cuda:0"),
        flushes_subnormals=True,
        largest_t=2**31 - 1,
        stochastic_rounding="specified",
        compiles=True,
        cost=4,
    )

    def __init__(self, device: str = "cpu") -> None:
        import jax
        import jax.numpy

        platform, _, index = device.partition(":")
        self._device = jax.devices(platform)[int(index or 0)]
        self._jax = jax

    def from_numpy(self, x: NumPyArray) -> Native:
        with self._jax.enable_x64(True):
            return self._jax.device_put(x.copy(), self._device)

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        with self._jax.enable_x64(any("64" in str(s.m.dtype) for s in states)):
            return super().step(params, grads, states, hp, layer_axes)


class JaxJitSpec(JaxSpec):
    """Under JAX's compiler, with traced hyperparameters and step count."""

    name = "spec:jax-jit"
    capabilities = Capabilities(
        dtypes=_ALL_DTYPES,
        devices=("cpu", "cuda:0"),
        flushes_subnormals=True,
        recomputes_moments=True,
        traced_t=True,
        largest_t=2**31 - 1,
        minimum_skips_nan=True,
        stochastic_rounding="specified",
        compiles=True,
        cost=4,
    )

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)

        def traced(param: Native, grad: Native, state: State, numbers: Any, rest: Any, axes: Any, rounding: Any) -> Any:
            hp = Hyperparameters(**numbers, **dict(rest))
            return step(param, grad, state, hp, layer_axes=axes, rounding=rounding)

        self._jitted = self._jax.jit(traced, static_argnames=("rest", "axes"))

    def _step(
        self, param: Native, grad: Native, state: State, hp: Hyperparameters, axes: Any, rounding: Rounding | None
    ) -> tuple[Native, State]:
        # Numbers are passed as float64 arrays, so that each coefficient is still formed in double and rounded once.
        # The settings that select operations are static.
        check_layer(param, grad, *state, hp, axes)  # a traced value is no longer checked
        values = asdict(hp)
        rest = tuple((name, values.pop(name)) for name in _STATIC)
        with self._jax.enable_x64(True):
            numbers = {name: np.asarray(x, np.float64) for name, x in values.items()}
            new: tuple[Native, State] = self._jitted(
                param, grad, state._replace(t=np.int32(state.t)), numbers, rest, axes, rounding
            )
        return new
