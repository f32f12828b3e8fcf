"""Statistics of the stepsizes of parameters, from their states; of DTensors, over all processes."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from setadam_core.layers import Layer
from setadam_core.parts import denominator
from setadam_core.show.statistics import layer_statistics, named, on_floor
from setadam_torch.checks.mesh import holders_of, is_dtensor, local_part
from setadam_torch.checks.options import Group, hyperparameters
from setadam_torch.checks.tensors import Tensor, layer_of, real, shape_of_layers
from setadam_torch.paths.parts import parts_of
from setadam_torch.sharding.exchange import combined, gathered_from, layer_of_part


def statistics(asked: Sequence[tuple[Tensor, dict[str, Any], Group]]) -> list[dict[str, Any]]:
    """`setadam_core.show.statistics.layer_statistics` of each (parameter, state, group). Where layers are spread over
    processes it takes two collectives; where a process has some of a parameter's layers, it gets theirs.
    """
    spread = [row for row in asked if is_dtensor(row[0]) and holders_of(row[0], row[2]["layer_axes"])]
    of = {id(param): found for (param, *_), found in zip(spread, _statistics_of_spread(spread), strict=True)}
    return [of.get(id(param)) or _of_param(*_local(param, state), group) for param, state, group in asked]


def _local(param: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    if not is_dtensor(param):
        return param, state
    return local_part(param), {**state, "exp_avg_sq": local_part(state["exp_avg_sq"])}


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is untyped where it is not installed
def _statistics_of_spread(asked: Sequence[tuple[Tensor, dict[str, Any], Group]]) -> list[dict[str, Any]]:
    vs = [real(local_part(state["exp_avg_sq"])) for _, state, _ in asked]
    layers = [layer_of_part(param, local_part(param), group) for param, _, group in asked]
    holders = [holders_of(param, group["layer_axes"]) for param, _, group in asked]
    parts = [parts_of(v, layer) for v, layer in zip(vs, layers, strict=True)]
    sizes, powers = [layer.size for layer in layers], [group["cos_power"] for *_, group in asked]
    known = combined(parts, sizes, powers, holders)  # type: ignore[arg-type]  # none is None
    local, of_layers = [], []
    for v, layer, pair, (_, state, group) in zip(vs, layers, known, asked, strict=True):
        hp, t = hyperparameters(group), int(state["step"])
        gamma, low = (x.view(shape_of_layers(v, layer)) for x in pair)
        w_shifted, w_min = denominator(v, gamma, low, t, layer, hp)
        of_layers.append((gamma, w_min))
        local.append(_moments_of_stepsizes(1 / w_shifted, on_floor(v, gamma, t, layer, hp), layer))
    found = []
    for i, of_all in enumerate(gathered_from(local, holders)):  # type: ignore[arg-type]
        (gamma, w_min), size = of_layers[i], layers[i].size
        count, total, spread, floor, least, most = of_all.unbind(1)
        mean = total.sum(0) / size
        spread = spread + count * (total / count.clamp(min=1) - mean) ** 2  # about the common mean
        share = floor.sum(0) / size + (gamma - gamma).reshape(-1)  # NaN if γ is
        values = (gamma, w_min, share, least.amin(0), mean, (spread.sum(0) / size).sqrt(), most.amax(0))
        found.append(named(values, gamma.shape, layers[i].axes))
    return found


def _moments_of_stepsizes(s: Tensor, floor: Tensor, layer: Layer) -> Tensor:
    """Of the local stepsizes of each layer: count, Σ, Σ(s - local mean)², how many are on the floor, min, max."""
    here = layer._replace(size=math.prod([s.shape[axis] for axis in layer.axes]))
    total = here.sum(s)
    mean = total / max(here.size, 1)
    count = torch.full_like(total, here.size)
    sums = (count, total, here.sum((s - mean) ** 2), here.sum(floor))
    return torch.stack([*sums, here.min(s), here.max(s)]).double().reshape(6, -1)


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is untyped where it is not installed
def _of_param(param: Tensor, state: dict[str, Any], group: Group) -> dict[str, Any]:
    layer = layer_of(param, group["layer_axes"])
    return layer_statistics(real(state["exp_avg_sq"]), int(state["step"]), layer, hyperparameters(group))
