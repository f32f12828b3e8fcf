"""Parameters of which a process holds a part: DTensors, as FSDP2 and tensor parallelism make them.

γ and min w are a whole layer's. Each process sums up its part in four numbers a layer (`Parts`); one
all-gather for each group of processes, however many layers there are, carries them to all; the update is
local. Every process puts the same parts together in the same order, so that γ is the same bit for bit.
Nothing here is done on a DTensor, whose operations would communicate by themselves.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from setadam_core.layers import Layer, check_layer_axes
from setadam_core.parts import Parts, combine
from setadam_core.spec import bias_correction, down_translate, embed_epsilon
from setadam_torch import _foreach, _statistics
from setadam_torch._layers import Group, Tensor, Tensors, compute_dtype, hyperparameters, layer_of, real
from setadam_torch._mesh import Holders, holders_of, is_dtensor, local_part

Columns = list[Tensors]  # params, grads, exp_avgs, exp_avg_sqs, steps
Work = list[tuple[Group, Columns]]


class _Shard(NamedTuple):
    """A parameter's local part."""

    columns: tuple[Tensor, ...]
    layer: Layer  # the axes that make one layer; size counts the whole of it
    group: Group
    holders: Holders


def step(work: Work) -> Work:
    """Update each layer that several processes hold; return the others, with DTensors as local tensors.

    Where a gradient is placed otherwise than its parameter (Partial, say), it is brought there first,
    which communicates as much as the gradient is large; p.grad itself is not changed.
    """
    if any(is_dtensor(param) for _, columns in work for param in columns[0]):
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
    for bucket in _buckets(shards):
        torch._foreach_add_([shard.columns[4] for shard in bucket], 1)
    filled = [shard for shard in shards if shard.columns[0].numel() > 0]
    for bucket in _buckets(filled):
        params, grads, ms, vs, _ = _columns(bucket)
        _foreach.moments(bucket[0].group, params, grads, ms, vs)
    statistics = combined(
        [real(shard.columns[3]) for shard in shards],
        [shard.layer for shard in shards],
        [shard.group["cos_power"] for shard in shards],
        [shard.holders for shard in shards],
    )
    of = {id(shard): pair for shard, pair in zip(shards, statistics, strict=True)}
    for bucket in _buckets(filled):
        params, _, ms, vs, steps = _columns(bucket)
        gammas = [of[id(shard)][0] for shard in bucket]
        v_mins = [of[id(shard)][1].to(compute_dtype(params[0])) for shard in bucket]
        _foreach.descend(bucket[0].group, params, ms, vs, steps, gammas, v_mins)


def _columns(shards: list[_Shard]) -> list[list[Tensor]]:
    return [list(column) for column in zip(*(shard.columns for shard in shards), strict=True)]


def _buckets(shards: list[_Shard]) -> list[list[_Shard]]:
    """Shards of one group, device and dtype, which foreach operations take together."""
    buckets: dict[Any, list[_Shard]] = {}
    for shard in shards:
        param = shard.columns[0]
        buckets.setdefault((id(shard.group), param.device, param.dtype), []).append(shard)
    return list(buckets.values())


def combined(
    vs: Sequence[Tensor], layers: Sequence[Layer], powers: Sequence[float], holders: Sequence[Holders]
) -> list[tuple[Tensor, Tensor]]:
    """γ and min v of the layers whose local parts are in vs: float64, with the layers' axes kept as 1.

    A collective: all holders must ask for the same layers in the same order.
    """
    gathered = _gathered([_parts(v, layer) for v, layer in zip(vs, layers, strict=True)], holders)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for indices in _alike(zip(powers, (x.ranks for x in holders), strict=True)):
        parts = torch.cat([gathered[i] for i in indices], dim=2)
        widths = [gathered[i].shape[2] for i in indices]
        sizes = torch.cat([parts.new_full((n,), layers[i].size) for i, n in zip(indices, widths, strict=True)])
        gammas, lows = combine(Parts(*parts.unbind(1)), sizes, powers[indices[0]])
        for i, gamma, low in zip(indices, gammas.split(widths), lows.split(widths), strict=True):
            kept = [1 if axis in layers[i].axes else n for axis, n in enumerate(vs[i].shape)]
            found[i] = gamma.to(vs[i].device).view(kept), low.to(vs[i].device).view(kept)
    return [found[i] for i in range(len(vs))]


def _parts(v: Tensor, layer: Layer) -> Tensor:
    """The local `Parts` of the layers in v, as float64 of shape (4, layers)."""
    if v.numel() == 0:  # torch has no minimum of nothing; DTensor's raises here while the others wait
        layers = math.prod([n for axis, n in enumerate(v.shape) if axis not in layer.axes])
        nothing = torch.zeros((4, layers), dtype=torch.float64, device=v.device)
        nothing[3].fill_(math.inf)
        return nothing
    high = layer.max(v)
    r = v / torch.where(high == 0, 1, high)
    parts = torch.stack([high, layer.sum(r), layer.sum(r * r), layer.min(v)])
    return parts.double().reshape(4, -1)


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
    known = combined(vs, layers, [group["cos_power"] for *_, group in asked], holders)  # type: ignore[arg-type]
    local, w_mins = [], []
    for v, layer, (gamma, low), (_, state, group) in zip(vs, layers, known, asked, strict=True):
        hp, t = hyperparameters(group), int(state["step"])
        bc2, eps = bias_correction(hp.beta2, t, layer), layer.coefficient(hp.eps)
        w, w_min = (embed_epsilon(gamma * x / bc2, eps, layer, hp) for x in (v, low))
        w_mins.append(w_min)
        local.append(_moments_of_stepsizes(1 / down_translate(w, w_min, hp.tau), layer))
    found = []
    for i, of_all in enumerate(_gathered(local, holders)):  # type: ignore[arg-type]
        gamma, size = known[i][0], layers[i].size
        count, total, spread, least, most = of_all.unbind(1)
        mean = total.sum(0) / size
        spread = spread + count * (total / count.clamp(min=1) - mean) ** 2  # about the common mean
        values = (gamma, w_mins[i], least.amin(0), mean, (spread.sum(0) / size).sqrt(), most.amax(0))
        found.append(_statistics.named(values, gamma.shape, layers[i].axes))
    return found


def _moments_of_stepsizes(s: Tensor, layer: Layer) -> Tensor:
    """Of the local stepsizes of each layer: count, Σ, Σ(s - local mean)², min, max."""
    here = layer._replace(size=math.prod([s.shape[axis] for axis in layer.axes]))
    total = here.sum(s)
    mean = total / max(here.size, 1)
    count = torch.full_like(total, here.size)
    return torch.stack([count, total, here.sum((s - mean) ** 2), here.min(s), here.max(s)]).double().reshape(5, -1)


def _gathered(local: list[Tensor], holders: Sequence[Holders]) -> list[Tensor]:
    """Each (k, n) as the (ranks, k, n) of all its holders: one all-gather for each set of holders."""
    gathered: dict[int, Tensor] = {}
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
