"""The four numbers of a layer between the two passes, by torch's operations, and how many layers there are."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from setadam_torch.checks.tensors import Tensor, layer_of, real, shape_of_layers


def layer_count(param: Tensor, layer_axes: Any) -> int:
    """How many layers a parameter stacks: 0 for a stack of none; a layer may have no coordinates."""
    return 1 if layer_axes is None else math.prod(shape_of_layers(real(param), layer_of(param, layer_axes)))


def each_layer(numbers: Sequence[float], widths: Sequence[int], like: Tensor) -> Any:
    """A number for each parameter as numbers for its layers, of which it has so many (widths): one number if they are
    alike, else a tensor, of the dtype of `like` and on its device.
    """
    if len(set(numbers)) == 1:
        return numbers[0]
    if torch.compiler.is_compiling():
        return torch.cat([like.new_full((n,), x) for x, n in zip(numbers, widths, strict=True)])
    return on_device(numbers, like, like.dtype, widths)


def on_device(numbers: Sequence[float], like: Tensor, dtype: Any, widths: Sequence[int] | None = None) -> Tensor:
    """Numbers of the host, each so many times (widths; default: once), as a tensor of one axis on the device of `like`.
    They go along as arguments of launches: a copy would wait for the device, or break a CUDA graph.
    """
    widths = [1] * len(numbers) if widths is None else list(widths)
    made = torch.zeros(sum(widths), dtype=dtype, device=like.device)
    torch._foreach_add_(list(made.split(widths)), list(numbers))
    return made


def parts_of(v: Tensor, layer: Any) -> Tensor:
    """The `Parts` of the layers in v, or in what is here of it, by torch's operations: float64 of shape (4, layers)."""
    if v.numel() == 0:  # torch has no minimum of nothing
        return no_parts(math.prod(shape_of_layers(v, layer)), v.device)
    high = layer.max(v)
    r = v / torch.where(high == 0, 1, high)
    parts = torch.stack([high, layer.sum(r), layer.sum(r * r), layer.min(v)])
    return parts.double().reshape(4, -1)


def no_parts(layers: int, device: Any) -> Tensor:
    """The `Parts` of nothing, (4, layers)."""
    nothing = torch.zeros((4, layers), dtype=torch.float64, device=device)
    nothing[3].fill_(math.inf)
    return nothing
