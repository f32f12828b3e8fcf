"""Statistics of a parameter's stepsizes, from its state."""

from typing import Any

import torch

from setadam_core.statistics import layer_statistics
from setadam_torch._layers import Group, Tensor, hyperparameters, layer_of, real


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is untyped where it is not installed
def of_param(param: Tensor, state: dict[str, Any], group: Group) -> dict[str, Any]:
    """`setadam_core.statistics.layer_statistics` of a parameter."""
    layer = layer_of(param, group["layer_axes"])
    return layer_statistics(real(state["exp_avg_sq"]), int(state["step"]), layer, hyperparameters(group))
