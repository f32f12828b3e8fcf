"""optax's adam and adamw, eagerly and compiled, and the Adam of jax.example_libraries."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from setadam_conformance.adapters.published import adam, adamw
from setadam_conformance.adapters.spec import JaxSpec
from setadam_conformance.protocol import ADAM, LayerState, Native

_JAX: dict[str, Any] = {
    "devices": ("cpu", "cuda:0"),
    "flushes_subnormals": True,
    "corrections": "cancelling",
    "largest_t": 2**31 - 1,
    "moments": "parameter",
    "arithmetic": "parameter",
    "compiles": True,
    "cost": 4,
}
# optax has ε inside the root, too: `eps_root`.
_BOTH_PLACES = {name: value for name, value in ADAM.items() if name != "eps_inside_sqrt"}


class _Jax(JaxSpec, ABC):
    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        with self._jax.enable_x64(any("64" in str(p.dtype) for p in params)):
            return self.update(list(params), list(grads), list(states), hp)

    @abstractmethod
    def update(
        self, params: list[Any], grads: list[Any], states: list[LayerState], hp: Mapping[str, Any]
    ) -> tuple[list[Native], list[LayerState]]:
        """The library's step."""


class OptaxAdam(_Jax):
    """optax.adam, operation by operation."""

    name = "optax-adam:eager"
    framework = "optax-adam"
    capabilities = adam("eps_inside_sqrt", fixed=_BOTH_PLACES, **_JAX)
    compiled = False

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        import optax

        self._optax = optax
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def transform(self, hp: Mapping[str, Any]) -> Any:
        """The library's transformation for these hyperparameters."""
        return self._optax.adam(**_of_optax(hp))

    def update(self, params: list[Any], grads: list[Any], states: list[LayerState], hp: Mapping[str, Any]) -> Any:
        chain = self.transform(hp)
        # The moments are in the first link; the others have no state, or only counts of their own.
        link, *rest = chain.init(params)
        count = self._jax.numpy.asarray(states[0].t, self._jax.numpy.int32)
        link = link._replace(count=count, mu=[s.m for s in states], nu=[s.v for s in states])

        def step(params: Any, grads: Any, state: Any) -> Any:
            updates, state = chain.update(grads, state, params)
            return self._optax.apply_updates(params, updates), state

        if self.compiled:
            step = self._compiled.setdefault(tuple(hp.items()), self._jax.jit(step))
        new, (after, *_) = step(params, grads, (link, *rest))
        return new, [LayerState(m, v, int(after.count)) for m, v in zip(after.mu, after.nu, strict=True)]


def _of_optax(hp: Mapping[str, Any]) -> dict[str, Any]:
    inside = hp["eps_inside_sqrt"]
    return {
        "learning_rate": hp["lr"],
        "b1": hp["beta1"],
        "b2": hp["beta2"],
        "eps": 0.0 if inside else hp["eps"],
        "eps_root": hp["eps"] if inside else 0.0,
    }


class OptaxAdamJit(OptaxAdam):
    """optax.adam under jax.jit."""

    name = "optax-adam:jit"
    compiled = True


class OptaxAdamW(OptaxAdam):
    """optax.adamw, operation by operation."""

    name = "optax-adamw:eager"
    framework = "optax-adamw"
    capabilities = adamw(
        "decoupled_weight_decay", "eps_inside_sqrt", fixed={**_BOTH_PLACES, "decoupled_weight_decay": True}, **_JAX
    )

    def transform(self, hp: Mapping[str, Any]) -> Any:
        return self._optax.adamw(**_of_optax(hp), weight_decay=hp["weight_decay"])


class OptaxAdamWJit(OptaxAdamW):
    """optax.adamw under jax.jit."""

    name = "optax-adamw:jit"
    compiled = True


class ExampleAdam(_Jax):
    """jax.example_libraries.optimizers.adam."""

    name = "jax-example-adam"
    framework = "jax-example-adam"
    capabilities = adam(**_JAX)

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        from jax.example_libraries import optimizers

        self._library = optimizers

    def update(self, params: list[Any], grads: list[Any], states: list[LayerState], hp: Mapping[str, Any]) -> Any:
        _, update, get = self._library.adam(hp["lr"], hp["beta1"], hp["beta2"], hp["eps"])
        points = [self._library.JoinPoint((p, s.m, s.v)) for p, s in zip(params, states, strict=True)]
        after = update(np.int32(states[0].t), grads, self._library.pack_optimizer_state(points))
        parts = [point.subtree for point in self._library.unpack_optimizer_state(after)]
        return get(after), [LayerState(m, v, states[0].t + 1) for _, m, v in parts]
