"""`_triton.step_layers` for the conformance kit, on any device: behind the optimizer's own checks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from setadam_conformance.protocol import LayerState, Native
from setadam_torch import _triton
from setadam_torch.conformance import TorchSingle, _put, _states


class TritonSteps(TorchSingle):
    """One call for all layers with the same layer_axes. Step counts lie on the device."""

    name = "torch:triton"
    capabilities = replace(TorchSingle.capabilities, reloads=())

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        optimizer = self._optimizer(params, hp, layer_axes)
        _put(optimizer, params, grads, states)
        for param in params:
            optimizer.state[param]["step"] = optimizer.state[param]["step"].to(self._device)
        work = []
        for group in optimizer.param_groups:  # all is checked before anything is updated
            columns: Any = [[], [], [], [], []]
            optimizer._init_group(group, *columns)
            work.append((group, columns))
        for group, columns in work:
            _triton.step_layers(group, *([x.detach() for x in xs] for xs in columns))
        return list(params), _states(optimizer, params)
