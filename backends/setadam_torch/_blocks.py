"""The default path on the CPU: a layer in blocks that fit the cache, in two passes over memory.

The first pass updates the moments and gathers what γ and min w need; the second updates θ. That is
9 words of memory traffic a coordinate where whole-tensor operations have about 20. As `_foreach`, it
restates `setadam_core.spec.trace`. Memory: temporaries of one block.
"""

import math
from typing import Any

import numpy as np
import torch

from setadam_core.parts import Parts, combine
from setadam_torch._layers import Tensor, compute_dtype, real

BLOCK = 1 << 18  # coordinates: 1 MB a float32 array; smaller blocks cost more in calls than the cache saves


def serves(tensors: list[Tensor], group: dict[str, Any]) -> bool:
    """Whether a layer can be cut into blocks: on the CPU, whole, and without gaps in memory."""
    return (
        group["foreach"] is None
        and group["layer_axes"] is None
        and not (group["capturable"] or group["differentiable"])
        and all(x.device.type == "cpu" and x.is_contiguous() and not x.is_conj() for x in tensors)
    )


def step_layer(param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, t: int, group: Any) -> None:
    """Update one layer and its moments in place; t counts this step."""
    dtype, (beta1, beta2), decay = compute_dtype(param), group["betas"], group["weight_decay"]
    columns = [real(x).view(-1).split(BLOCK) for x in (param, grad, exp_avg, exp_avg_sq)]
    parts = []
    for theta, g, m, v in zip(*columns, strict=True):
        g = g.to(dtype)
        if group["maximize"]:
            g = -g
        if decay and not group["decoupled_weight_decay"]:
            g = torch.add(g, theta.to(dtype), alpha=decay)
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        low, high = (x.item() for x in torch.aminmax(v))
        r = v / high if high != 0 else v  # each block by its own maximum: no square under- or overflows
        parts.append((high, r.sum().item(), torch.dot(r, r).item(), low))

    gamma, low = combine(Parts(*np.array(parts).T), real(param).numel(), group["cos_power"])
    scale = float(gamma) / _bias_correction(beta2, t)
    least = _root(torch.tensor(low, dtype=dtype), scale, group).item()
    lr = float(group["lr"])
    rate = lr / _bias_correction(beta1, t)
    for theta, _, m, v in zip(*columns, strict=True):
        w = _root(v, scale, group)
        w.sub_(group["tau"] * least)
        new = theta.to(dtype)  # theta itself where no cast is needed
        if decay and group["decoupled_weight_decay"]:
            new.mul_(1 - lr * decay)
        new.addcdiv_(m, w, value=-rate)
        if new is not theta:
            theta.copy_(new)


def _root(v: Tensor, scale: float, group: Any) -> Tensor:
    """The denominator √(cv + ε), or √(cv) + ε, in fresh memory."""
    w = v * scale
    return w.add_(group["eps"]).sqrt_() if group["eps_inside_sqrt"] else w.sqrt_().add_(group["eps"])


def _bias_correction(beta: float, t: int) -> float:
    return -math.expm1(t * math.log(beta)) if beta else 1.0
