"""The adapter for the conformance kit, on the backend that Keras has in this process.

The kit judges Keras on each of its backends, in a process for each (`setadam_conformance.adapters.keras`): a process
has Keras on one of them only.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import ml_dtypes
import numpy as np
from keras import ops

from setadam_conformance.protocol import OPTIONS, Capabilities, LayerState, Native, NumPyArray
from setadam_keras import SETAdam

_BACKEND = keras.backend.backend()
_RENAMED = {"lr": "learning_rate", "beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon"}
_CLAIMS: dict[str, Any] = {
    "dtypes": ("float64", "float32", "bfloat16", "float16"),
    "options": OPTIONS - {"maximize", "complex"},
    "float32_scalars": ("lr",),  # Keras keeps the learning rate in a variable of float32
    "traced_t": True,
    "largest_t": 2**31 - 1,  # Keras's counter, except on TensorFlow
    "reloads": ("save_own_variables",),
}
_OF_BACKEND: dict[str, dict[str, Any]] = {
    "torch": {"cost": 10},
    "jax": {  # compiled, as `fit` does it
        "flushes_subnormals": True,
        "recomputes_moments": True,
        "minimum_skips_nan": True,
        "compiles": True,
        "cost": 4,
    },
    "tensorflow": {"flushes_subnormals": True, "cost": 10},
}


class KerasAdapter:
    """`SETAdam` on new variables for each step; the kit's arrays are NumPy's."""

    name = f"keras:{_BACKEND}"
    framework = "keras"
    capabilities = Capabilities(**_CLAIMS, **_OF_BACKEND.get(_BACKEND, {}))

    def __init__(self, device: str = "cpu") -> None:
        if device not in self.capabilities.devices:
            raise RuntimeError(f"{self.name} has no device {device!r}")
        self._compiled: dict[Any, Any] = {}

    def from_numpy(self, x: NumPyArray) -> Native:
        return x.copy(order="K")

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
        with _float64_if(params):
            optimizer, variables = _built(params, states, hp, layer_axes)
            gradients = [_tensor(g) for g in grads]
            if _BACKEND == "jax":
                key = (tuple(hp.items()), tuple(layer_axes), tuple((p.shape, str(p.dtype)) for p in params))
                self._step_compiled(key, optimizer, gradients, variables)
            else:
                optimizer.apply(gradients, variables)
            return [_array(x) for x in variables], _states(optimizer)

    def _step_compiled(self, key: Any, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        """A program for each set of shapes and hyperparameters: it depends on nothing else of the optimizer."""
        import jax

        program = self._compiled.setdefault(key, jax.jit(optimizer.stateless_apply))
        own = optimizer.variables
        new, after = program([x.value for x in own], gradients, [x.value for x in variables])
        for variable, value in zip((*variables, *own), (*new, *after), strict=True):
            variable.assign(value)

    def reload(
        self, how: str, params: Sequence[Native], states: Sequence[LayerState], hp: Mapping[str, Any]
    ) -> list[LayerState]:
        """What a .keras file has of an optimizer, without the file."""
        if how != "save_own_variables":
            raise ValueError(f"how must be one of {self.capabilities.reloads}, got {how!r}")
        with _float64_if(params):
            axes = [None] * len(params)
            optimizer, _ = _built(params, states, hp, axes)
            store: dict[str, Any] = {}
            optimizer.save_own_variables(store)
            blank = [LayerState(np.zeros_like(s.m), np.zeros_like(s.v), 0) for s in states]
            other, _ = _built(params, blank, hp, axes)
            other.load_own_variables(store)
            return _states(other)


def _built(
    params: Sequence[NumPyArray], states: Sequence[LayerState], hp: Mapping[str, Any], layer_axes: Sequence[Any]
) -> tuple[Any, list[Any]]:
    """An optimizer with these states, and the variables that it is built for."""
    if hp.get("maximize", False):
        raise ValueError("setadam_keras.SETAdam has no maximize: change the sign of the loss")
    counts = {int(s.t) for s in states}
    if len(counts) != 1:
        raise ValueError(f"states must have one step count between them, got {sorted(counts)}")
    named = {_RENAMED.get(name, name): x for name, x in hp.items() if name != "maximize"}
    axes = {f"^p{i}$": axes for i, axes in enumerate(layer_axes)}
    variables = [keras.Variable(_tensor(p), dtype=str(p.dtype), name=f"p{i}") for i, p in enumerate(params)]
    optimizer = SETAdam(**named, layer_axes=axes)
    optimizer.build(variables)
    moments = zip(optimizer._momentums, optimizer._velocities, states, strict=True)
    for m, v, state in moments:
        m.assign(_tensor(state.m))
        v.assign(_tensor(state.v))
    optimizer.iterations.assign(counts.pop())
    return optimizer, variables


def _states(optimizer: Any) -> list[LayerState]:
    t = int(_array(optimizer.iterations))
    moments = zip(optimizer._momentums, optimizer._velocities, strict=True)
    return [LayerState(_array(m), _array(v), t) for m, v in moments]


def _tensor(x: NumPyArray) -> Any:
    return ops.convert_to_tensor(np.array(x, order="C"), dtype=str(x.dtype))


def _array(x: Any) -> NumPyArray:
    if keras.backend.standardize_dtype(x.dtype) != "bfloat16":
        return np.array(ops.convert_to_numpy(x))
    wide = ops.convert_to_numpy(ops.cast(x, "float32"))  # exact, and back
    return np.asarray(wide, dtype=ml_dtypes.bfloat16)


def _float64_if(params: Sequence[NumPyArray]) -> AbstractContextManager[Any]:
    """JAX has float64 only with x64 on. Other dtypes are judged with x64 off, as users run them."""
    if _BACKEND != "jax":
        return nullcontext()
    import jax

    x64: AbstractContextManager[Any] = jax.enable_x64(any(p.dtype == np.float64 for p in params))
    return x64
