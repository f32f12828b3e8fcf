"""The four numbers of a layer between the two passes, by torch's operations, and how many layers there are."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from setadam_torch.checks.tensors import Tensor, layer_of, real, shape_of_layers


def layer_count(param: Tensor, layer_axes: Any) -> int:
    """How many layers a parameter stacks: 0 for a stack of none; a layer may have no coordinates."""
    return 1 if layer_axes is None else math.prod(shape_of_layers(real(param), layer_of(param, layer_axes)))


def each_layer(sizes: Sequence[int], widths: Sequence[int], like: Tensor) -> Any:
    """The size of each layer, for parameters of so many layers (widths): one number if they are alike, else a tensor.
    Made on the device, which a copy from the host would wait for.
    """
    if len(set(sizes)) == 1:
        return sizes[0]
    return torch.cat([like.new_full((n,), size) for size, n in zip(sizes, widths, strict=True)])


def parts_of(v: Tensor, layer: Any) -> Tensor:
    """The `Parts` of the layers in v, or in what is here of it, by torch's operations: float64 of shape (4, layers)."""
    if v.numel() == 0:  # torch has no minimum of nothing
        nothing = torch.zeros((4, math.prod(shape_of_layers(v, layer))), dtype=torch.float64, device=v.device)
        nothing[3].fill_(math.inf)
        return nothing
    high = layer.max(v)
    r = v / torch.where(high == 0, 1, high)
    parts = torch.stack([high, layer.sum(r), layer.sum(r * r), layer.min(v)])
    return parts.double().reshape(4, -1)
