"""The default path on the CPU: layers in blocks that fit the cache, in two passes over memory.

The first pass updates the moments and gathers what γ and min w need; the second updates θ. That is
9 words of memory traffic a coordinate where whole-tensor operations have about 20. Small layers of one
shape go together, their v copied as the rows of a matrix, since for them a call costs more than its work.
The moments and the update are those of `_foreach`. Memory: a few temporaries of one block.
"""

import math
from typing import Any

import numpy as np
import torch

from setadam_core.parts import Parts, combine
from setadam_torch import _memory
from setadam_torch._foreach import moments, update
from setadam_torch._layers import Group, Tensor, Tensors, count_up, learning_rate, real

BLOCK = 1 << 20  # coordinates: 4 MB a float32 array; smaller blocks cost more in calls than the cache saves
SMALL = 1 << 14  # coordinates: layers up to here are stepped together; torch sums them on one thread
# Of a row of d: Σv² is at least (Σv)²/d and at most (Σv)². With a mean above this, all squares that underflow in
# float32 are less than 2⁻³⁰ of Σv²; with a sum below this, Σv² does not overflow.
LEAST_MEAN, MOST_SUM = 2.0**-48, 2.0**60


class _Scratch:
    """Memory that serves block after block: fresh pages cost as much as what is computed in them."""

    def __init__(self) -> None:
        self._memory: dict[Any, Tensor] = {}

    def __call__(self, use: str, shape: Any, dtype: Any) -> Tensor:
        size, key = math.prod(shape), (use, dtype)
        if key not in self._memory or self._memory[key].numel() < size:
            self._memory[key] = torch.empty(size, dtype=dtype, device="cpu")  # not torch's default device
        return self._memory[key][:size].view(shape)


def serves(group: Group, param: Tensor, *others: Tensor) -> bool:
    """Whether a layer can be cut into blocks: on the CPU, whole, and without gaps in memory."""
    return (
        group["layer_axes"] is None
        and not group["capturable"]
        and param.device.type == "cpu"
        and all(x.is_contiguous() for x in (param, *others))
        and _memory.hold_values((param, *others))
    )


def blocks(
    group: Group, params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, steps: Tensors
) -> None:
    """Update params, moments and steps in place."""
    scratch = _Scratch()
    alike: dict[Any, list[tuple[Tensor, ...]]] = {}
    for t, *layer in zip(count_up(steps), params, grads, exp_avgs, exp_avg_sqs, strict=True):
        param, size = layer[0], layer[0].numel()
        if size > SMALL:
            cuts = zip(*(real(x).view(-1).split(BLOCK) for x in layer), strict=True)
            _step([[[x] for x in cut] for cut in cuts], t, group, scratch, large=True)
        elif size > 0:
            alike.setdefault((t, param.dtype, param.shape), []).append(tuple(layer))
    for (t, _, shape), layers in alike.items():
        together = max(1, BLOCK // shape.numel())
        for i in range(0, len(layers), together):
            columns = zip(*layers[i : i + together], strict=True)
            _step([[[real(x) for x in column] for column in columns]], t, group, scratch, large=False)


def _step(pieces: list[list[Tensors]], t: float, group: Group, scratch: _Scratch, large: bool) -> None:
    """Step one large layer, in its blocks, or small ones of one shape together; t counts this step. Each piece is
    lists of parameters, gradients and moments. What else is stepped changes no bit of a layer.
    """
    rows, sums = [], []
    for piece in pieces:
        moments(group, *piece)
        v = _rows(piece[3], scratch)
        rows.append(v)
        sums += [v.sum(dim=1), torch.square(v, out=scratch("w", v.shape, v.dtype)).sum(dim=1), v.amin(dim=1)]
    size, dtype, (beta1, beta2) = sum(v.shape[1] for v in rows), v.dtype, group["betas"]
    gamma, low = combine(_parts(rows, sums, scratch), size, group["cos_power"])
    scale = gamma / _bias_correction(beta2, t)
    least = group["tau"] * _root(scale * low, group)
    scale, least = (torch.from_numpy(x).to(dtype)[:, None] for x in (scale, least))
    lr = float(learning_rate(group))
    rate = -lr / _bias_correction(beta1, t)
    for (params, _, ms, _), v in zip(pieces, rows, strict=True):
        w = _denominator(v, scale, group, scratch("w", v.shape, dtype), large).sub_(least)
        update(group, params, ms, w.view(-1, *ms[0].shape).unbind(), lr, [rate] * len(ms))


def _rows(vs: Tensors, scratch: _Scratch) -> Tensor:
    """A matrix with a row for each layer: a view of one, a copy of several."""
    if len(vs) == 1:
        return vs[0].view(1, -1)
    return torch.stack(vs, out=scratch("v", (len(vs), *vs[0].shape), vs[0].dtype)).view(len(vs), -1)


def _parts(rows: Tensors, sums: Tensors, scratch: _Scratch) -> Parts:
    """Of Σv, Σv² and min v of each block; or, for a row whose squares might under- or overflow, of its blocks anew, in
    units of their maxima.
    """
    s1, s2, low = torch.stack(sums).double().numpy().reshape(len(rows), 3, -1).swapaxes(0, 1)
    in_range = ((LEAST_MEAN * rows[0].shape[1] < s1) & (s1 < MOST_SUM)).all(axis=0)
    plain = np.ones_like(s1), s1, s2
    if in_range.all():
        return Parts(*plain, low)
    parts = []
    for v in rows:
        high = v.amax(dim=1)  # torch.aminmax(dim=1) is twenty times slower
        r = torch.div(v, torch.where(high == 0, 1.0, high)[:, None], out=scratch("w", v.shape, v.dtype))
        parts.append(torch.stack([high, r.sum(dim=1), r.square_().sum(dim=1)]).double().numpy())
    high, s1, s2 = np.where(in_range, plain, np.stack(parts, axis=1))
    return Parts(high, s1, s2, low)


def _denominator(v: Tensor, scale: Tensor, group: Group, out: Tensor, large: bool) -> Tensor:
    if not large or not group["eps_inside_sqrt"]:
        return _root(torch.mul(v, scale, out=out), group)
    eps = torch.full((), group["eps"], dtype=v.dtype, device="cpu")
    return torch.add(eps, v, alpha=scale.item(), out=out).sqrt_()  # a pass less


def _root(x: Any, group: Group) -> Any:
    """√(x + ε), or √x + ε, in place, of an array or a tensor."""
    if group["eps_inside_sqrt"]:
        x += group["eps"]
    x **= 0.5
    if not group["eps_inside_sqrt"]:
        x += group["eps"]
    return x


def _bias_correction(beta: float, t: float) -> float:
    return -math.expm1(t * math.log(beta)) if beta else 1.0
