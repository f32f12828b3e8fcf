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


class _Scratch:
    """Memory that serves block after block: fresh pages cost as much as what is computed in them."""

    def __init__(self) -> None:
        self._memory: dict[Any, Tensor] = {}

    def __call__(self, use: str, shape: Any, dtype: Any) -> Tensor:
        size, key = math.prod(shape), (use, dtype)
        if key not in self._memory or self._memory[key].numel() < size:
            self._memory[key] = torch.empty(size, dtype=dtype)
        return self._memory[key][:size].view(shape)

    def cast(self, use: str, x: Tensor, dtype: Any) -> Tensor:
        """X itself where it has the dtype."""
        return x if x.dtype == dtype else self(use, x.shape, dtype).copy_(x)


def serves(group: Group, param: Tensor, *others: Tensor) -> bool:
    """Whether a layer can be cut into blocks: on the CPU, whole, and without gaps in memory."""
    return (
        group["layer_axes"] is None
        and not group["capturable"]
        and param.device.type == "cpu"
        and all(x.is_contiguous() and not x.is_conj() for x in (param, *others))
    )


def blocks(
    group: Group, params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, steps: Tensors
) -> None:
    """Update params, moments and steps in place."""
    torch._foreach_add_(steps, torch.ones((), dtype=torch.float64))
    scratch = _Scratch()
    alike: dict[Any, list[tuple[Tensor, ...]]] = {}
    for t, *layer in zip(torch.stack(steps).tolist(), params, grads, exp_avgs, exp_avg_sqs, strict=True):
        param, size = layer[0], layer[0].numel()
        if size > SMALL:
            _step_rows(_Rows(*(real(x).view(1, -1) for x in layer)), t, group, scratch)
        elif size > 0:
            alike.setdefault((t, param.dtype, param.shape), []).append(tuple(layer))
    for (t, _, shape), layers in alike.items():
        together = max(1, BLOCK // shape.numel())
        for i in range(0, len(layers), together):
            _step_small(layers[i : i + together], t, group, scratch)


def _step_small(layers: list[tuple[Tensor, ...]], t: float, group: Group, scratch: _Scratch) -> None:
    """Step layers of one shape and dtype in copies."""
    columns = list(zip(*layers, strict=True))
    shape = (len(layers), *layers[0][0].shape)
    copies = [
        torch.stack(column, out=scratch(name, shape, column[0].dtype))
        for name, column in zip(_Rows._fields, columns, strict=True)
    ]
    _step_rows(_Rows(*(real(x).view(len(layers), -1) for x in copies)), t, group, scratch)
    for i in (0, 2, 3):  # the gradients stay as they are
        torch._foreach_copy_(columns[i], copies[i].unbind())


def _step_rows(rows: _Rows, t: float, group: Group, scratch: _Scratch) -> None:
    """Update each row and its moments in place; t counts this step."""
    dtype, (beta1, beta2), decay = compute_dtype(rows.theta), group["betas"], group["weight_decay"]
    parts = []
    for theta, g, m, v in rows.blocks():
        g = scratch.cast("wide g", g, dtype)
        if group["maximize"]:
            g = torch.neg(g, out=scratch("own g", g.shape, dtype))
        if decay and not group["decoupled_weight_decay"]:
            wide = scratch.cast("wide theta", theta, dtype)
            g = torch.add(g, wide, alpha=decay, out=scratch("own g", g.shape, dtype))
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        parts.append(_statistics(v, scratch))

    gamma, low = combine(Parts(*np.stack(parts, axis=1)), rows.theta.shape[1], group["cos_power"])
    scale = torch.from_numpy(gamma / _bias_correction(beta2, t)).to(dtype)[:, None]
    least = torch.from_numpy(low).to(dtype)[:, None]
    least = _root(least, scale, group, torch.empty_like(least)).mul_(group["tau"])
    lr = float(group["lr"])
    rate = lr / _bias_correction(beta1, t)
    for theta, _, m, v in rows.blocks():
        w = _root(v, scale, group, scratch("w", v.shape, dtype)).sub_(least)
        new = scratch.cast("wide theta", theta, dtype)
        if decay and group["decoupled_weight_decay"]:
            new.mul_(1 - lr * decay)
        new.addcdiv_(m, w, value=-rate)
        if new is not theta:
            theta.copy_(new)


def _statistics(v: Tensor, scratch: _Scratch) -> Any:
    """`Parts` of each row: in units of its own maximum, so that no square under- or overflows."""
    low, high = v.amin(dim=1), v.amax(dim=1)  # torch.aminmax(dim=1) is twenty times slower
    r = torch.div(v, torch.where(high == 0, 1.0, high)[:, None], out=scratch("w", v.shape, v.dtype))
    s1 = r.sum(dim=1)
    s2 = r.square_().sum(dim=1)
    return torch.stack([high, s1, s2, low]).double().numpy()


def _root(v: Tensor, scale: Tensor, group: Group, out: Tensor) -> Tensor:
    """The denominator √(cv + ε), or √(cv) + ε."""
    w = torch.mul(v, scale, out=out)
    return w.add_(group["eps"]).sqrt_() if group["eps_inside_sqrt"] else w.sqrt_().add_(group["eps"])


def _bias_correction(beta: float, t: float) -> float:
    return -math.expm1(t * math.log(beta)) if beta else 1.0
