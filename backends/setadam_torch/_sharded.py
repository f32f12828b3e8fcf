"""Parameters of which a process holds a part: DTensors, as FSDP2 and tensor parallelism make them.

γ and min w are a whole layer's. Each process sums up its part in four numbers a layer (`Parts`); one
all-gather for each group of processes, however many layers there are, carries them to all; the update is
local. Every process puts the same parts together in the same order, so that γ is the same bit for bit.
Nothing here is done on a DTensor, whose operations would communicate by themselves.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from setadam_core.layers import Layer, check_layer_axes
from setadam_core.parts import Parts, combine
from setadam_core.spec import bias_correction, down_translate, embed_epsilon
from setadam_core.statistics import named
from setadam_torch import _memory, _statistics
from setadam_torch._layers import Group, Tensor, hyperparameters, layer_of, real
from setadam_torch._mesh import Holders, any_dtensor, holders_of, is_dtensor, local_part
from setadam_torch._phases import Columns, parts_of, phases

Work = list[tuple[Group, Columns]]


@dataclass(eq=False)
class _Shard:
    """A parameter's local part, and what is learnt of its layers on the way."""

    columns: tuple[Tensor, ...]
    layer: Layer  # the axes that make one layer; size counts the whole of it
    group: Group
    holders: Holders
    parts: Tensor = None  # of what is here
    gamma: Tensor = None  # of the whole, as low
    low: Tensor = None

    @property
    def is_empty(self) -> bool:
        """Whether others have all of it."""
        return bool(self.columns[0].numel() == 0)


def step(work: Work) -> Work:
    """Update each layer that several processes hold; return the others, with DTensors as local tensors.

    Where a gradient is placed otherwise than its parameter (Partial, say), it is brought there first,
    which communicates as much as the gradient is large; p.grad itself is not changed.
    """
    if any(any_dtensor(columns[0]) for _, columns in work):
        return _step(work)  # type: ignore[no-any-return]
    return work


@torch._disable_dynamo  # type: ignore[untyped-decorator]  # as torch.optim.Optimizer; a compiled step breaks here
def _step(work: Work) -> Work:
    shards: list[_Shard] = []
    rest: Work = []
    for group, columns in work:
        alone: Columns = [[] for _ in columns]
        for param, grad, m, v, t in zip(*columns, strict=True):
            row, holders = (param, grad, m, v, t), None
            if is_dtensor(param):
                grad = grad if grad.placements == param.placements else grad.redistribute(placements=param.placements)
                row = (*(local_part(x) for x in (param, grad, m, v)), t)
                holders = holders_of(param, group["layer_axes"])
            if holders is None:
                for column, x in zip(alone, row, strict=True):
                    column.append(x)
            else:
                shards.append(_Shard(row, _layer(param, row[0], group), group, holders))
        rest.append((group, alone))
    if shards:
        _update(shards)
    return rest


def _layer(param: Tensor, local: Tensor, group: Group) -> Layer:
    axes = check_layer_axes(group["layer_axes"], param.ndim)
    size = math.prod(param.shape[axis] for axis in axes) * (2 if param.is_complex() else 1)
    return layer_of(local, group["layer_axes"])._replace(size=size)


def _update(shards: list[_Shard]) -> None:
    for shard in shards:
        if shard.is_empty:
            shard.columns[4].add_(1)
            shard.parts = parts_of(real(shard.columns[3]), shard.layer)
    buckets = _buckets([shard for shard in shards if not shard.is_empty])
    for bucket in buckets:
        group, columns, layers = bucket[0].group, _columns(bucket), [shard.layer for shard in bucket]
        found = phases(group, columns).moments(group, columns, layers)
        for shard, parts in zip(bucket, found, strict=True):
            shard.parts = parts
    of_all = combined(
        [shard.parts for shard in shards],
        [shard.layer.size for shard in shards],
        [shard.group["cos_power"] for shard in shards],
        [shard.holders for shard in shards],
    )
    for shard, (gamma, low) in zip(shards, of_all, strict=True):
        shard.gamma, shard.low = gamma, low
    for bucket in buckets:
        group, columns, layers = bucket[0].group, _columns(bucket), [shard.layer for shard in bucket]
        gammas, lows = [shard.gamma for shard in bucket], [shard.low for shard in bucket]
        phases(group, columns).descend(group, columns, layers, gammas, lows)


def _columns(shards: list[_Shard]) -> Columns:
    return [list(column) for column in zip(*(shard.columns for shard in shards), strict=True)]


def _buckets(shards: list[_Shard]) -> list[list[_Shard]]:
    """Shards of one group, device and dtype, which are updated together."""
    buckets: dict[Any, list[_Shard]] = {}
    for shard in shards:
        param = shard.columns[0]
        buckets.setdefault((id(shard.group), param.device, param.dtype), []).append(shard)
    return list(buckets.values())


def combined(
    local: Sequence[Tensor], sizes: Sequence[int], powers: Sequence[float], holders: Sequence[Holders]
) -> list[tuple[Tensor, Tensor]]:
    """γ and min v of whole layers from the local `Parts`, (4, layers) for each parameter: float64 of shape
    (layers,). sizes: d, of which the parts are.

    A collective: all holders must ask for the same layers in the same order.
    """
    gathered = _gathered(local, holders)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for indices in _alike(zip(powers, (x.ranks for x in holders), strict=True)):
        parts = torch.cat([gathered[i] for i in indices], dim=2)
        widths = [gathered[i].shape[2] for i in indices]
        each = torch.cat([parts.new_full((n,), sizes[i]) for i, n in zip(indices, widths, strict=True)])
        gammas, lows = combine(Parts(*parts.unbind(1)), each, powers[indices[0]])
        for i, *pair in zip(indices, gammas.split(widths), lows.split(widths), strict=True):
            gamma, low = (x.to(local[i].device) for x in pair)
            found[i] = gamma, low
    return [found[i] for i in range(len(local))]


def statistics(asked: Sequence[tuple[Tensor, dict[str, Any], Group]]) -> list[dict[str, Any]]:
    """What `_statistics.of_param` gives, of each (parameter, state, group). Where layers are spread over
    processes it takes two collectives; where a process has some of a parameter's layers, it gets theirs.
    """
    spread = [row for row in asked if is_dtensor(row[0]) and holders_of(row[0], row[2]["layer_axes"])]
    of = {id(param): found for (param, *_), found in zip(spread, _statistics_of_spread(spread), strict=True)}
    return [of.get(id(param)) or _statistics.of_param(*_local(param, state), group) for param, state, group in asked]


def _local(param: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    if not is_dtensor(param):
        return param, state
    return local_part(param), {**state, "exp_avg_sq": local_part(state["exp_avg_sq"])}


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is untyped where it is not installed
def _statistics_of_spread(asked: Sequence[tuple[Tensor, dict[str, Any], Group]]) -> list[dict[str, Any]]:
    vs = [real(local_part(state["exp_avg_sq"])) for _, state, _ in asked]
    layers = [_layer(param, local_part(param), group) for param, _, group in asked]
    holders = [holders_of(param, group["layer_axes"]) for param, _, group in asked]
    parts = [parts_of(v, layer) for v, layer in zip(vs, layers, strict=True)]
    sizes, powers = [layer.size for layer in layers], [group["cos_power"] for *_, group in asked]
    known = combined(parts, sizes, powers, holders)  # type: ignore[arg-type]  # none is None
    local, of_layers = [], []
    for v, layer, pair, (_, state, group) in zip(vs, layers, known, asked, strict=True):
        hp, t = hyperparameters(group), int(state["step"])
        gamma, low = (x.view([1 if axis in layer.axes else n for axis, n in enumerate(v.shape)]) for x in pair)
        bc2, eps = bias_correction(hp.beta2, t, layer), layer.coefficient(hp.eps)
        w, w_min = (embed_epsilon(gamma * x / bc2, eps, layer, hp) for x in (v, low))
        of_layers.append((gamma, w_min))
        local.append(_moments_of_stepsizes(1 / down_translate(w, w_min, hp.tau), layer))
    found = []
    for i, of_all in enumerate(_gathered(local, holders)):  # type: ignore[arg-type]
        (gamma, w_min), size = of_layers[i], layers[i].size
        count, total, spread, least, most = of_all.unbind(1)
        mean = total.sum(0) / size
        spread = spread + count * (total / count.clamp(min=1) - mean) ** 2  # about the common mean
        values = (gamma, w_min, least.amin(0), mean, (spread.sum(0) / size).sqrt(), most.amax(0))
        found.append(named(values, gamma.shape, layers[i].axes))
    return found


def _moments_of_stepsizes(s: Tensor, layer: Layer) -> Tensor:
    """Of the local stepsizes of each layer: count, Σ, Σ(s - local mean)², min, max."""
    here = layer._replace(size=math.prod([s.shape[axis] for axis in layer.axes]))
    total = here.sum(s)
    mean = total / max(here.size, 1)
    count = torch.full_like(total, here.size)
    return torch.stack([count, total, here.sum((s - mean) ** 2), here.min(s), here.max(s)]).double().reshape(5, -1)


def _gathered(local: Sequence[Tensor], holders: Sequence[Holders]) -> list[Tensor]:
    """Each (k, n) as the (ranks, k, n) of all its holders: one all-gather for each set of holders."""
    gathered: dict[int, Tensor] = {}
    local = [_memory.as_plain(x) for x in local]  # a wrapper would send each tensor that it wraps
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
