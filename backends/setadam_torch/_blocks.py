"""The default path on the CPU: layers in blocks that fit the cache, in two passes over memory.

The first pass updates the moments and gathers what γ and min w need; the second updates θ. That is
9 words of memory traffic a coordinate where whole-tensor operations have about 20. Small layers of one
shape are copied together, as the rows of a matrix, since for them a call costs more than its work.
As `_foreach`, it restates `setadam_core.spec.trace`. Memory: a few temporaries of one block.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from setadam_core.parts import Parts, combine
from setadam_torch._layers import Group, Tensor, Tensors, compute_dtype, real

BLOCK = 1 << 18  # coordinates: 1 MB a float32 array; smaller blocks cost more in calls than the cache saves
SMALL = 1 << 14  # coordinates: layers up to here are stepped together; torch sums them on one thread


class _Rows(NamedTuple):
    """Layers of one shape, each a row: views of one layer, or copies of several."""

    theta: Tensor
    g: Tensor
    m: Tensor
    v: Tensor

    def blocks(self) -> Iterator["_Rows"]:
        width = max(1, BLOCK // len(self.theta))
        return map(_Rows._make, zip(*(x.split(width, dim=1) for x in self), strict=True))


def serves(group: Group, *tensors: Tensor) -> bool:
    """Whether a layer can be cut into blocks: on the CPU, whole, and without gaps in memory."""
    return (
        group["layer_axes"] is None
        and not group["capturable"]
        and all(x.device.type == "cpu" and x.is_contiguous() and not x.is_conj() for x in tensors)
    )


def blocks(
    group: Group, params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, steps: Tensors
) -> None:
    """Update params, moments and steps in place."""
    torch._foreach_add_(steps, torch.ones((), dtype=torch.float64))
    alike: dict[Any, list[tuple[Tensor, ...]]] = {}
    counts = torch.stack(steps).tolist()
    for t, *layer in zip(counts, params, grads, exp_avgs, exp_avg_sqs, strict=True):
        size = layer[0].numel()
        if size > 0:
            key = (t, layer[0].shape, layer[0].dtype, None if size <= SMALL else len(alike))
            alike.setdefault(key, []).append(tuple(layer))
    for (t, *_), layers in alike.items():
        together = max(1, BLOCK // layers[0][0].numel())
        for i in range(0, len(layers), together):
            _step_alike(layers[i : i + together], t, group)


def _step_alike(layers: list[tuple[Tensor, ...]], t: float, group: Group) -> None:
    if len(layers) == 1:
        _step_rows(_Rows(*(real(x).view(1, -1) for x in layers[0])), t, group)
        return
    columns = list(zip(*layers, strict=True))
    stacks = [torch.stack(column) for column in columns]
    _step_rows(_Rows(*(real(x).view(len(layers), -1) for x in stacks)), t, group)
    for i in (0, 2, 3):  # the gradients stay as they are
        torch._foreach_copy_(columns[i], stacks[i].unbind())


def _step_rows(rows: _Rows, t: float, group: Group) -> None:
    """Update each row and its moments in place; t counts this step."""
    dtype, (beta1, beta2), decay = compute_dtype(rows.theta), group["betas"], group["weight_decay"]
    parts = []
    for theta, g, m, v in rows.blocks():
        g = g.to(dtype)
        if group["maximize"]:
            g = -g
        if decay and not group["decoupled_weight_decay"]:
            g = torch.add(g, theta.to(dtype), alpha=decay)
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        parts.append(_statistics(v))

    gamma, low = combine(Parts(*np.stack(parts, axis=1)), rows.theta.shape[1], group["cos_power"])
    scale = torch.from_numpy(gamma / _bias_correction(beta2, t)).to(dtype)[:, None]
    least = _root(torch.from_numpy(low).to(dtype)[:, None], scale, group).mul_(group["tau"])
    lr = float(group["lr"])
    rate = lr / _bias_correction(beta1, t)
    for theta, _, m, v in rows.blocks():
        w = _root(v, scale, group)
        w.sub_(least)
        new = theta.to(dtype)  # theta itself where no cast is needed
        if decay and group["decoupled_weight_decay"]:
            new.mul_(1 - lr * decay)
        new.addcdiv_(m, w, value=-rate)
        if new is not theta:
            theta.copy_(new)


def _statistics(v: Tensor) -> Any:
    """`Parts` of each row: in units of its own maximum, so that no square under- or overflows."""
    low, high = torch.aminmax(v, dim=1)
    r = v / torch.where(high == 0, 1.0, high)[:, None]
    s1 = r.sum(dim=1)
    s2 = r.square_().sum(dim=1)
    return torch.stack([high, s1, s2, low]).double().numpy()


def _root(v: Tensor, scale: Tensor, group: Group) -> Tensor:
    """The denominator √(cv + ε), or √(cv) + ε, in fresh memory."""
    w = v * scale
    return w.add_(group["eps"]).sqrt_() if group["eps_inside_sqrt"] else w.sqrt_().add_(group["eps"])


def _bias_correction(beta: float, t: float) -> float:
    return -math.expm1(t * math.log(beta)) if beta else 1.0
