"""What the adapters of in-place optimizers on plain arrays share: those of setadam_numpy and setadam_cupy."""

import copy
import io
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from setadam_conformance.protocol import LayerState, Native


class InPlaceAdapter:
    """`step` and `reload` for a subclass of `setadam_core.inplace.InPlaceOptimizer`."""

    optimizer: Any  # the class
    fused: bool  # which of its paths
    reloads = ("state_dict", "pickle", "deepcopy", "npz", "safetensors")

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
        """An optimizer whose parameters and state are the given arrays, not copies."""
        options = {**hp, "fused": self.fused}
        if "beta1" in options or "beta2" in options:
            options["betas"] = (options.pop("beta1", 0.9), options.pop("beta2", 0.999))
        groups = [{"params": [p], "layer_axes": axes} for p, axes in zip(params, layer_axes, strict=True)]
        optimizer = self.optimizer(groups, **options)
        for name, state in zip(optimizer.state, states, strict=True):
            optimizer.state[name] = {"step": state.t, "exp_avg": state.m, "exp_avg_sq": state.v}
        return optimizer


def _states(optimizer: Any) -> list[LayerState]:
    return [LayerState(s["exp_avg"], s["exp_avg_sq"], s["step"]) for s in optimizer.state.values()]
