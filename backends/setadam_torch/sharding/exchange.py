"""The one collective of a step: the `Parts` of layers to all processes that hold them.

Every process combines the same parts in the same order, so that γ is the same bit for bit.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from setadam_core.layers import Layer, check_layer_axes
from setadam_core.parts import Parts, combine
from setadam_torch.checks import memory
from setadam_torch.checks.mesh import Holders
from setadam_torch.checks.options import Group
from setadam_torch.checks.tensors import Tensor, layer_of
from setadam_torch.paths.parts import each_layer


def layer_of_part(param: Tensor, local: Tensor, group: Group) -> Layer:
    """The layer of a DTensor's local part: its size counts the whole layer."""
    axes = check_layer_axes(group["layer_axes"], param.ndim)
    size = math.prod(param.shape[axis] for axis in axes) * (2 if param.is_complex() else 1)
    return layer_of(local, group["layer_axes"])._replace(size=size)


def combined(
    local: Sequence[Tensor], sizes: Sequence[int], powers: Sequence[float], holders: Sequence[Holders]
) -> list[tuple[Tensor, Tensor]]:
    """γ and min v of whole layers from the local `Parts`, (4, layers) for each parameter: float64 of shape
    (layers,). sizes: d, of which the parts are.

    A collective: all holders must ask for the same layers in the same order.
    """
    parts_of_all = gathered_from(local, holders)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for indices in _alike(zip(powers, (x.ranks for x in holders), strict=True)):
        parts = torch.cat([parts_of_all[i] for i in indices], dim=2)
        widths = [parts_of_all[i].shape[2] for i in indices]
        each = each_layer([sizes[i] for i in indices], widths, parts)
        gammas, lows = combine(Parts(*parts.unbind(1)), each, powers[indices[0]])
        for i, *pair in zip(indices, gammas.split(widths), lows.split(widths), strict=True):
            gamma, low = (x.to(local[i].device) for x in pair)
            found[i] = gamma, low
    return [found[i] for i in range(len(local))]


def gathered_from(local: Sequence[Tensor], holders: Sequence[Holders]) -> list[Tensor]:
    """Each (k, n) as the (ranks, k, n) of all its holders: one all-gather for each set of holders."""
    gathered: dict[int, Tensor] = {}
    local = [memory.as_plain(x) for x in local]  # a wrapper would send each tensor that it wraps
    for indices in _alike(zip((x.ranks for x in holders), (x.shape[0] for x in local), strict=True)):
        widths = [local[i].shape[1] for i in indices]
        together = holders[indices[0]].all_gather(torch.cat([local[i] for i in indices], dim=1))
        gathered.update(zip(indices, together.split(widths, dim=2), strict=True))
    return [gathered[i] for i in range(len(local))]


def _alike(keys: Iterable[Any]) -> list[list[int]]:
    """The indices of equal keys, together, in the order in which the keys first appear."""
    indices: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        indices.setdefault(key, []).append(i)
    return list(indices.values())
