"""The paths of SETAdam for the conformance kit: plain NumPy, and the compiled kernel where it is there."""

import copy
import io
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from setadam_conformance.protocol import Capabilities, LayerState, Native, NumPyArray
from setadam_numpy import SETAdam

_DTYPES = ("float64", "float32", "bfloat16", "float16")


class NumPyPlain:
    """SETAdam with fused=False; the base of the other path."""

    name = "numpy:plain"
    framework = "numpy"
    capabilities = Capabilities(
        dtypes=_DTYPES, in_place=True, reloads=("state_dict", "pickle", "deepcopy", "npz", "safetensors")
    )
    _fused = False

    def __init__(self, device: str = "cpu") -> None:
        if device not in self.capabilities.devices:
            raise RuntimeError(f"{self.name} has no device {device!r}")

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
        optimizer = self._optimizer(params, states, hp, layer_axes)
        optimizer.step(dict(zip(optimizer.state, grads, strict=True)))
        return list(params), _states(optimizer)

    def reload(
        self, how: str, params: Sequence[Native], states: Sequence[LayerState], hp: Mapping[str, Any]
    ) -> list[LayerState]:
        axes = [None] * len(params)
        optimizer = self._optimizer(params, states, hp, axes)
        if how == "pickle":
            return _states(pickle.loads(pickle.dumps(optimizer)))
        if how == "deepcopy":
            return _states(copy.deepcopy(optimizer))
        form: Any = optimizer.state_dict()
        if how == "npz":
            file = io.BytesIO()
            np.savez(file, **form)
            file.seek(0)
            form = np.load(file)
        elif how == "safetensors":
            from safetensors.numpy import load, save

            form = load(save(form))
        other = self._optimizer(params, states, hp, axes)
        other.load_state_dict(form)
        return _states(other)

    def _optimizer(
        self, params: Sequence[Native], states: Sequence[LayerState], hp: Mapping[str, Any], layer_axes: Sequence[Any]
    ) -> Any:
        """An optimizer of the given arrays, whose state they are."""
        options = {**hp, "fused": self._fused}
        if "beta1" in options or "beta2" in options:
            options["betas"] = (options.pop("beta1", 0.9), options.pop("beta2", 0.999))
        groups = [{"params": [p], "layer_axes": axes} for p, axes in zip(params, layer_axes, strict=True)]
        optimizer = self._class(groups, **options)
        for name, state in zip(optimizer.state, states, strict=True):
            optimizer.state[name] = {"step": state.t, "exp_avg": state.m, "exp_avg_sq": state.v}
        return optimizer

    _class: Any = SETAdam


def _states(optimizer: Any) -> list[LayerState]:
    return [LayerState(s["exp_avg"], s["exp_avg_sq"], s["step"]) for s in optimizer.state.values()]
