"""SETAdam as users make it, and spread over processes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from setadam_conformance.protocol import LayerState, Native
from setadam_torch.conformance import ranks
from setadam_torch.conformance.adapters import OwnChoice


class TorchDefault(OwnChoice):
    """SETAdam as users make it: the kernel or blocks on the CPU, foreach elsewhere; and DTensors."""

    name = "torch:default"
    capabilities = replace(OwnChoice.capabilities, layouts=ranks.LAYOUTS)

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
        sent = ([read(p) for p in params], [read(g) for g in grads], [_mapped(s, read) for s in states])
        new, after = ranks.step_sharded(layout, *sent, dict(hp), list(layer_axes))
        return [write(p) for p in new], [_mapped(s, write) for s in after]


def _mapped(state: LayerState, convert: Any) -> LayerState:
    return LayerState(convert(state.m), convert(state.v), state.t)
