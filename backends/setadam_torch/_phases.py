"""A step of local tensors in two phases, between which processes exchange what they know of their layers."""

import math
from types import ModuleType
from typing import Any

import numpy as np
import torch

from setadam_core.layers import Layer
from setadam_numpy import kernel
from setadam_torch import _foreach, _fused, _triton
from setadam_torch._layers import Group, Tensor, Tensors, advance, compute_dtype, count_up, hyperparameters, real

Layers = list[Layer]
Columns = list[Tensors]  # params, grads, exp_avgs, exp_avg_sqs, steps: of one device and dtype, none empty


class Foreach:
    """By torch's foreach operations."""

    def moments(self, group: Group, columns: Columns, layers: Layers) -> Tensors:
        """Count the step, update the moments, and return the `Parts` of each tensor."""
        *tensors, steps = columns
        advance(steps)
        _foreach.moments(group, *tensors)
        return [parts_of(real(v), layer) for v, layer in zip(columns[3], layers, strict=True)]

    def descend(self, group: Group, columns: Columns, layers: Layers, gammas: Tensors, lows: Tensors) -> None:
        """Update the parameters, given γ and min v of their layers, float64 of shape (layers,) for each."""
        params, _, ms, vs, steps = columns
        dtype = compute_dtype(params[0])
        kept = [_kept(real(v), layer) for v, layer in zip(vs, layers, strict=True)]
        gammas = [x.view(shape) for x, shape in zip(gammas, kept, strict=True)]
        v_mins = [x.to(dtype).view(shape) for x, shape in zip(lows, kept, strict=True)]
        _foreach.descend(group, params, ms, vs, steps, gammas, v_mins)


class Kernels:
    """By a module of kernels that has `moments` and `descend`, as `_triton` has."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def moments(self, group: Group, columns: Columns, layers: Layers) -> Tensors:
        """As `Foreach.moments`."""
        parts = torch.stack(list(self._module.moments(group, *columns)))
        counts = [math.prod(_kept(real(v), layer)) for v, layer in zip(columns[3], layers, strict=True)]
        return list(parts.split(counts, dim=1))

    def descend(self, group: Group, columns: Columns, layers: Layers, gammas: Tensors, lows: Tensors) -> None:
        """As `Foreach.descend`."""
        params, _, ms, vs, steps = columns
        self._module.descend(group, params, ms, vs, steps, torch.cat(gammas), torch.cat(lows))


class OnCPU:
    """By the compiled CPU kernel, which is given arrays that share the tensors' memory."""

    def moments(self, group: Group, columns: Columns, layers: Layers) -> Tensors:
        """As `Foreach.moments`."""
        *tensors, steps = columns
        count_up(steps)
        params, grads, ms, vs = map(_arrays, tensors)
        parts = kernel.moments(params, grads, ms, vs, hyperparameters(group), **_options(group, columns[0]))
        counts = [math.prod(_kept(real(v), layer)) for v, layer in zip(columns[3], layers, strict=True)]
        return list(torch.from_numpy(np.stack(parts)).split(counts, dim=1))

    def descend(self, group: Group, columns: Columns, layers: Layers, gammas: Tensors, lows: Tensors) -> None:
        """As `Foreach.descend`."""
        params, _, ms, vs, steps = columns
        ts, hp, options = [int(t.item()) for t in steps], hyperparameters(group), _options(group, params)
        found = torch.cat(gammas).numpy(), torch.cat(lows).numpy()
        torch.autograd.graph.increment_version(params)  # autograd does not see what is written by address
        kernel.descend(_arrays(params), _arrays(ms), _arrays(vs), ts, hp, *found, **options)


def _arrays(xs: Tensors) -> list[Any]:
    wide = (real(x.detach()) for x in xs)  # NumPy has no bfloat16
    return [(x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy() for x in wide]


def _options(group: Group, params: Tensors) -> dict[str, Any]:
    slices = [kernel.contiguous_slices(x.shape, group["layer_axes"]) for x in params]
    dtype = str(real(params[0]).dtype).removeprefix("torch.")
    return {"dtype": dtype, "slices": slices, "threads": torch.get_num_threads()}


def phases(group: Group, columns: Columns) -> Foreach | Kernels | OnCPU:
    """Whose phases take the tensors of a group as they lie in memory: those of the path that it would take."""
    if not _fused.wanted(group) or not all(_fused.serves(group, *row) for row in zip(*columns[:4], strict=True)):
        return Foreach()
    return Kernels(_triton) if columns[0][0].is_cuda else OnCPU()


def parts_of(v: Tensor, layer: Layer) -> Tensor:
    """The `Parts` of the layers in v, or in what is here of it: float64 of shape (4, layers)."""
    if v.numel() == 0:  # torch has no minimum of nothing; DTensor's raises here while the others wait
        nothing = torch.zeros((4, math.prod(_kept(v, layer))), dtype=torch.float64, device=v.device)
        nothing[3].fill_(math.inf)
        return nothing
    high = layer.max(v)
    r = v / torch.where(high == 0, 1, high)
    parts = torch.stack([high, layer.sum(r), layer.sum(r * r), layer.min(v)])
    return parts.double().reshape(4, -1)


def _kept(v: Tensor, layer: Layer) -> list[int]:
    """The shape of v with its layers' axes as 1: one place for each layer."""
    return [1 if axis in layer.axes else n for axis, n in enumerate(v.shape)]
