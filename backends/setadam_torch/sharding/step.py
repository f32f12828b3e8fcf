"""One step of parameters of which a process holds a part: DTensors, as FSDP2 and tensor parallelism make them.

γ and min w are a whole layer's. Each process sums up its part in four numbers a layer (`Parts`); one
all-gather for each group of processes, however many layers there are, carries them to all; the update is
local. No operation is done on a DTensor itself: it would communicate.
"""

from dataclasses import dataclass
from typing import Any

import torch

from setadam_core.layers import Layer
from setadam_torch.checks.mesh import Holders, any_dtensor, holders_of, is_dtensor, local_part
from setadam_torch.checks.options import Group
from setadam_torch.checks.tensors import Tensor
from setadam_torch.paths.choice import by_path
from setadam_torch.paths.columns import Columns, columns_of, rows_of
from setadam_torch.paths.counts import advance
from setadam_torch.paths.parts import layer_count, no_parts
from setadam_torch.paths.protocol import Path
from setadam_torch.sharding.exchange import combined, layer_of_part

Work = list[tuple[Group, Columns]]


@dataclass(eq=False)
class _Shard:
    """A parameter's local part, and what is found of its layers on the way."""

    row: tuple[Tensor, ...]
    layer: Layer  # the axes that make one layer; size counts the whole of it
    group: Group
    holders: Holders
    parts: Tensor = None  # of what is here
    gamma: Tensor = None  # of the whole, as low
    low: Tensor = None


def step(work: Work) -> Work:
    """Update each layer that several processes hold; return the others, with DTensors as local tensors.

    A gradient that is placed otherwise than its parameter (Partial, say) is redistributed first, which
    communicates as much as the gradient is large; p.grad itself is not changed.
    """
    if any(any_dtensor(columns.params) for _, columns in work):
        return _step(work)  # type: ignore[no-any-return]
    return work


@torch._disable_dynamo  # type: ignore[untyped-decorator]  # as torch.optim.Optimizer; a compiled step breaks here
def _step(work: Work) -> Work:
    shards: list[_Shard] = []
    rest: Work = []
    for group, columns in work:
        whole: list[Any] = []
        for param, grad, m, v, t in rows_of(columns):
            row, holders = (param, grad, m, v, t), None
            if is_dtensor(param):
                grad = grad if grad.placements == param.placements else grad.redistribute(placements=param.placements)
                row = (*(local_part(x) for x in (param, grad, m, v)), t)
                holders = holders_of(param, group["layer_axes"])
            if holders is None:
                whole.append(row)
            else:
                shards.append(_Shard(row, layer_of_part(param, row[0], group), group, holders))
        rest.append((group, columns_of(whole)))
    if shards:
        _update(shards)
    return rest


def _update(shards: list[_Shard]) -> None:
    """Both passes of each part by its own path, and between them the exchange, in the same order everywhere."""
    begun = _begun(shards)
    for portion, of in begun:
        parts = torch.stack(list(portion.moments()))
        for shard, own in zip(of, parts.split(portion.widths, dim=1), strict=True):
            shard.parts = own
    of_all = combined(
        [shard.parts for shard in shards],
        [shard.layer.size for shard in shards],
        [shard.group["cos_power"] for shard in shards],
        [shard.holders for shard in shards],
    )
    for shard, (gamma, low) in zip(shards, of_all, strict=True):
        shard.gamma, shard.low = gamma, low
    for portion, of in begun:
        portion.descend(torch.cat([shard.gamma for shard in of]), torch.cat([shard.low for shard in of]))


def _count_empty(shards: list[_Shard]) -> None:
    """Count the step of parts without coordinates: other processes have all of those layers."""
    advance([shard.row[4] for shard in shards])
    widths = [layer_count(shard.row[0], shard.group["layer_axes"]) for shard in shards]
    if shards:
        nothing = no_parts(sum(widths), shards[0].row[3].device)
        for shard, own in zip(shards, nothing.split(widths, dim=1), strict=True):
            shard.parts = own.to(shard.row[3].device)


def _begun(shards: list[_Shard]) -> list[tuple[Path, list[_Shard]]]:
    """The parts that are not empty, begun by their paths in portions, and whose they are. Empty ones are done with."""
    groups: dict[int, list[_Shard]] = {}
    for shard in shards:
        if shard.row[0].numel() > 0:
            groups.setdefault(id(shard.group), []).append(shard)
    _count_empty([shard for shard in shards if shard.row[0].numel() == 0])
    of_param = {id(shard.row[0]): shard for shard in shards}
    portions = [
        portion
        for some in groups.values()
        for path, columns in by_path(some[0].group, columns_of([shard.row for shard in some])).items()
        for portion in path.begin(some[0].group, columns)
    ]
    return [(portion, [of_param[id(param)] for param in portion.columns.params]) for portion in portions]
