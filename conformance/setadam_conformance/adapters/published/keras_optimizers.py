"""Keras 3's Adam and AdamW, on the first of its backends that is installed."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from setadam_conformance.adapters.published import adam, adamw
from setadam_conformance.protocol import LayerState, Native, NumPyArray

_CLAIMS: dict[str, Any] = {
    "epsilon": "uncorrected",
    "corrections": "cancelling",
    "moments": "parameter",
    "arithmetic": "parameter",
    "float32_scalars": ("lr",),  # the learning rate is a variable of float32
    "largest_t": 2**31 - 1,
    "cost": 4,
}


class KerasAdam:
    """keras.optimizers.Adam."""

    name = "keras-adam"
    framework = "keras-adam"
    capabilities = adam(**_CLAIMS)
    kind = "Adam"

    def __init__(self, device: str = "cpu") -> None:
        if device != "cpu":
            raise RuntimeError(f"{self.name} is judged on the CPU")
        if importlib.util.find_spec("keras") is None:
            raise ImportError("keras is not installed")
        if "KERAS_BACKEND" not in os.environ:
            found = next((name for name in ("torch", "jax", "tensorflow") if importlib.util.find_spec(name)), None)
            if found is None:
                raise ImportError("keras needs torch, jax or tensorflow")
            os.environ["KERAS_BACKEND"] = found
        import keras

        self._keras = keras

    def from_numpy(self, x: NumPyArray) -> Native:
        return x.copy()

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
        keras = self._keras
        variables = [keras.Variable(p, dtype=str(p.dtype), name=f"p{i}") for i, p in enumerate(params)]
        optimizer = self.optimizer(hp)
        optimizer.build(variables)
        for i, state in enumerate(states):
            optimizer._momentums[i].assign(self._tensor(state.m))
            optimizer._velocities[i].assign(self._tensor(state.v))
        optimizer.iterations.assign(states[0].t)
        optimizer.apply([self._tensor(g) for g in grads], variables)
        t = int(self._array(optimizer.iterations))
        moments = zip(optimizer._momentums, optimizer._velocities, strict=True)
        return list(map(self._array, variables)), [LayerState(self._array(m), self._array(v), t) for m, v in moments]

    def optimizer(self, hp: Mapping[str, Any]) -> Any:
        """The library's optimizer for these hyperparameters."""
        betas = {"beta_1": hp["beta1"], "beta_2": hp["beta2"]}
        return self._keras.optimizers.Adam(learning_rate=hp["lr"], epsilon=hp["eps"], **betas)

    def _tensor(self, x: NumPyArray) -> Any:
        return self._keras.ops.convert_to_tensor(x, dtype=str(x.dtype))

    def _array(self, x: Any) -> NumPyArray:
        dtype = self._keras.backend.standardize_dtype(x.dtype)
        if dtype != "bfloat16":
            return np.array(self._keras.ops.convert_to_numpy(x))
        import ml_dtypes

        wide = self._keras.ops.convert_to_numpy(self._keras.ops.cast(x, "float32"))  # exact, and back
        return np.asarray(wide, dtype=ml_dtypes.bfloat16)


class KerasAdamW(KerasAdam):
    """keras.optimizers.AdamW."""

    name = "keras-adamw"
    framework = "keras-adamw"
    capabilities = adamw("decoupled_weight_decay", **_CLAIMS)

    def optimizer(self, hp: Mapping[str, Any]) -> Any:
        betas = {"beta_1": hp["beta1"], "beta_2": hp["beta2"]}
        decay = hp["weight_decay"]
        return self._keras.optimizers.AdamW(learning_rate=hp["lr"], epsilon=hp["eps"], weight_decay=decay, **betas)
