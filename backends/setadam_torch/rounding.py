"""Stochastic rounding, around a step: a 16-bit parameter takes its step in a float32 copy, and is rounded from that.

So every path serves it, and a sharded step too: the float32 step is the 16-bit one before its last operation. The
random words are those of `setadam_core.rounding`, by a coordinate's place in the whole parameter, wherever its part is.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import array_api_compat.torch as xp
import numpy as np
import torch

from setadam_core.rounding import check_seed, keys, mixed, signed, to_neighbours
from setadam_torch.checks import memory
from setadam_torch.checks.mesh import is_dtensor, local_part
from setadam_torch.checks.options import Group, is_rounded_stochastically
from setadam_torch.checks.tensors import Tensor, dtype_name
from setadam_torch.paths.columns import Columns, columns_of, rows_of

Work = list[tuple[Group, Columns]]
Places = Sequence[Sequence[int]]  # of the parameters in each group's columns: their index among all of the optimizer

_TOGETHER = 1 << 26  # coordinates that are copied at a time; a larger parameter is alone
_BLOCK = 1 << 18  # coordinates that are rounded at a time on a CPU, whose caches then hold the temporaries


class _Rounded(NamedTuple):
    """A parameter that is to be rounded from its copy."""

    row: tuple[Tensor, ...]  # the parameter, its gradient, its moments and its step count
    wide: Tensor
    wide_grad: Tensor
    seed: int
    place: int


def asked(groups: Sequence[Group]) -> bool:
    """Whether a group has the option."""
    return any([check_seed(group["stochastic_rounding"]) is not None for group in groups])  # noqa: C419


def around(work: Work, places: Places, step: Callable[[Work], None], unscales: bool) -> None:
    """Take a step of this work, which updates θ, m, v and t of all columns; and round.

    places: see `Places`. unscales: whether the step also divides the gradients in place, by a GradScaler's scale.
    """
    if not asked([group for group, _ in work]):
        step(work)
        return
    _around(work, places, step, unscales)


@torch._disable_dynamo  # type: ignore[untyped-decorator]  # a compiled step breaks here: compiled words differed
def _around(work: Work, places: Places, step: Callable[[Work], None], unscales: bool) -> None:
    for part, placed in _portions(work, places):
        wide, rounded = _widened(part, placed)
        step(wide)
        for each in rounded:
            _store(each)
            if unscales:
                each.row[1].copy_(each.wide_grad)


def _portions(work: Work, places: Places) -> list[tuple[Work, Places]]:
    """The work in parts, of which each needs little memory for its copies. The same on all processes."""
    found: list[tuple[Work, Places]] = []
    for (group, columns), placed in zip(work, places, strict=True):
        rows: list[tuple[int, tuple[Tensor, ...]]] = []
        size = 0
        for place, row in zip(placed, rows_of(columns), strict=True):
            if rows and size + row[0].numel() > _TOGETHER:
                found.append(_portion(group, rows))
                rows, size = [], 0
            rows.append((place, row))
            size += row[0].numel() if is_rounded_stochastically(row[0], group) else 0
        found.append(_portion(group, rows))
    return found


def _portion(group: Group, rows: Sequence[tuple[int, tuple[Tensor, ...]]]) -> tuple[Work, Places]:
    return [(group, columns_of([row for _, row in rows]))], [[place for place, _ in rows]]


def _widened(work: Work, places: Places) -> tuple[Work, list[_Rounded]]:
    """The work on float32 copies of what is to be rounded, and these."""
    wide: Work = []
    rounded: list[_Rounded] = []
    for (group, columns), placed in zip(work, places, strict=True):
        rows = []
        for place, row in zip(placed, rows_of(columns), strict=True):
            if is_rounded_stochastically(row[0], group):
                param, grad = _wide(row[0]), _wide(row[1])
                seed = check_seed(group["stochastic_rounding"]) or 0
                rounded.append(_Rounded(row, param, grad, seed, place))
                row = (param, grad, *row[2:])
            rows.append(row)
        wide.append((group, columns_of(rows)))
    return wide, rounded


def _wide(x: Tensor) -> Tensor:
    """A float32 copy, in the same order in memory; of a DTensor, one that is placed alike."""
    if not is_dtensor(x):
        return x.detach().to(torch.float32)
    from torch.distributed.tensor import DTensor

    local = local_part(x).detach().to(torch.float32)
    return DTensor.from_local(local, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride())


def _store(rounded: _Rounded) -> None:
    param, t = rounded.row[0], rounded.row[4]
    shape, offset, wide = tuple(param.shape), (0,) * param.ndim, rounded.wide
    if is_dtensor(param):
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        _, offset = compute_local_shape_and_global_offset(param.shape, param.device_mesh, param.placements)
        param, wide = local_part(param), local_part(wide)
    if param.numel() == 0:
        return
    if param.ndim == 0:
        param, wide, shape, offset = param[None], wide[None], (1,), (0,)
    first, second = _keys(rounded.seed, t, rounded.place, param.device)
    for start, stop in _blocks(param):
        at = (offset[0] + start, *offset[1:])
        indices = _indices(at, (stop - start, *param.shape[1:]), shape, param.device)
        words = mixed(indices, first, second)
        name = dtype_name(param.dtype)
        param[start:stop].copy_(to_neighbours(wide[start:stop], name, words, xp, _power_of_two))


def _blocks(param: Tensor) -> Iterator[tuple[int, int]]:
    """The rows of a tensor, so many at a time that temporaries stay in a CPU's cache; elsewhere all at once."""
    if not param.is_cpu:
        return iter([(0, param.shape[0])])
    rows = max(1, _BLOCK // prod(param.shape[1:]))
    return ((i, min(i + rows, param.shape[0])) for i in range(0, param.shape[0], rows))


def _keys(seed: int, t: Tensor, place: int, device: Any) -> tuple[Any, Any]:
    """Both keys of a parameter in a step: numbers, or where t is not to be read, tensors of one."""
    if not t.is_cpu or memory.is_unreadable(t):
        count = t.reshape(1).to(device=device, dtype=torch.int64).to(torch.int32)  # keeps the last 32 bits
        others = [torch.tensor([signed(word)], dtype=torch.int32, device=device) for word in (seed, place)]
        return keys([others[0], count, others[1]])
    words = [np.array([signed(word % 2**32)], np.int32) for word in (seed, int(t.item()), place)]
    first, second = keys(words)
    return int(first[0]), int(second[0])


def _indices(at: Sequence[int], shape: Sequence[int], whole: Sequence[int], device: Any) -> Tensor:
    """The indices, modulo 2³², in a whole tensor of a part of this shape, which begins at these coordinates."""
    strides = [prod(whole[axis + 1 :]) for axis in range(len(whole))]
    start = sum(i * stride for i, stride in zip(at, strides, strict=True))
    if tuple(shape[1:]) == tuple(whole[1:]):
        flat = torch.arange(start, start + prod(shape), dtype=torch.int64, device=device)
        return flat.to(torch.int32).view(tuple(shape))
    found: Tensor = torch.full((), start, dtype=torch.int64, device=device)
    for n, stride in zip(shape, strides, strict=True):
        found = found[..., None] + torch.arange(0, n, dtype=torch.int64, device=device) * stride
    return found.to(torch.int32)


def _power_of_two(size: Tensor, least: float, _: Any) -> Tensor:
    """`setadam_core.rounding.power_of_two_below`, from the bits: without its significant digits, a number is that."""
    return (size.view(torch.int32) & 0x7F800000).view(torch.float32).clamp_min(least)
