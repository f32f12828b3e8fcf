"""The path on the CPU without Numba or with foreach=True: layers in blocks that fit the cache, in two passes.

The first pass updates the moments and gathers what γ and min w need; the second updates θ. That is
9 words of memory traffic a coordinate where whole-tensor operations have about 20. Small layers of one
shape go together, their v copied as the rows of a matrix, since for them a call costs more than its work.
The arithmetic of the moments and of the update is that of `foreach`. Memory: a few temporaries of one block.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from setadam_core.parts import Parts, merge
from setadam_core.spec import bias_correction
from setadam_torch.checks import memory
from setadam_torch.checks.options import Group, asks_for_single, learning_rate
from setadam_torch.checks.tensors import Tensor, Tensors, real
from setadam_torch.paths.columns import Columns, columns_of, rows_of
from setadam_torch.paths.counts import count_up
from setadam_torch.paths.foreach import take_root, update_moments, update_params
from setadam_torch.paths.protocol import Path

BLOCK = 1 << 20  # coordinates: 4 MB a float32 array; smaller blocks cost more in calls than the cache saves
SMALL = 1 << 14  # coordinates: layers up to here are stepped together; torch sums them on one thread
# Of a row of d: Σv² is at least (Σv)²/d and at most (Σv)². With a mean above this, all squares that underflow in
# float32 are less than 2⁻³⁰ of Σv²; with a sum below this, Σv² does not overflow.
LEAST_MEAN, MOST_SUM = 2.0**-48, 2.0**60


class Blocks(Path):
    """One large layer, in its blocks; or small layers of one shape together. No layer's result depends on which others
    are stepped.
    """

    name = "blocks"

    def __init__(self, group: Group, columns: Columns, scratch: "_Scratch") -> None:
        super().__init__(group, columns)
        self._scratch = scratch
        self._pieces = _pieces(columns)  # of parameters, gradients and moments, in lists

    @classmethod
    def why_not(cls, group: Group, layer: Sequence[Tensor]) -> str | None:
        if asks_for_single(group) or group["capturable"]:
            return "the options ask for another path"
        if group["layer_axes"] is not None:
            return "layers with layer_axes are not cut into blocks"
        if layer[0].device.type != "cpu":
            return "blocks pay on a CPU"
        if not all([x.is_contiguous() for x in layer]) or not memory.hold_values(layer):  # noqa: C419
            return "a layer with gaps in memory cannot be cut into blocks"
        return None

    @classmethod
    def begin(cls, group: Group, columns: Columns) -> list[Path]:
        scratch, portions = _Scratch(), []
        alike: dict[Any, list[Any]] = {}
        for row in rows_of(columns):
            if row[0].numel() > SMALL:
                portions.append([row])
            else:
                alike.setdefault((row[0].dtype, row[0].shape), []).append(row)
        for (_, shape), rows in alike.items():
            together = max(1, BLOCK // shape.numel())
            portions += [rows[i : i + together] for i in range(0, len(rows), together)]
        return [cls(group, columns_of(rows), scratch) for rows in portions]

    def moments(self) -> Parts:
        self._counts = count_up(self.columns.steps)
        rows = []
        sums = torch.empty((3, len(self._pieces), len(self._pieces[0][0])), dtype=torch.float64, device="cpu")
        for i, piece in enumerate(self._pieces):
            update_moments(self.group, *piece)
            rows.append(v := self._rows(piece[3]))
            squares = torch.square(v, out=self._scratch("w", v.shape, v.dtype))
            sums[:, i] = torch.stack([v.sum(dim=1), squares.sum(dim=1), v.amin(dim=1)])
        return merge(self._parts(rows, *sums))

    def descend(self, gammas: Tensor, lows: Tensor) -> None:
        group, (beta1, beta2) = self.group, self.group["betas"]
        lr, layer = float(learning_rate(group)), self.layers[0]
        corrections1, corrections2 = ([bias_correction(b, t, layer) for t in self._counts] for b in (beta1, beta2))
        scale = gammas / torch.tensor(corrections2, dtype=torch.float64, device="cpu")
        least = scale * lows
        take_root([least], group)
        scale, least = (x.to(layer.dtype)[:, None] for x in (scale, group["tau"] * least))
        rates = [-lr / correction for correction in corrections1]
        for params, _, ms, vs in self._pieces:
            v = self._rows(vs)
            w = self._denominator(v, scale).sub_(least)
            update_params(group, params, ms, w.view(-1, *ms[0].shape).unbind(), lr, rates)

    def _rows(self, vs: Tensors) -> Tensor:
        """A matrix with a row for each layer: a view of one, a copy of several."""
        if len(vs) == 1:
            return vs[0].view(1, -1)
        return torch.stack(vs, out=self._scratch("v", (len(vs), *vs[0].shape), vs[0].dtype)).view(len(vs), -1)

    def _parts(self, rows: Tensors, s1: Tensor, s2: Tensor, low: Tensor) -> Parts:
        """Of each block and row, from Σv, Σv² and min v. In a row whose squares might under- or overflow, each
        block is summed up again, in units of its maximum.
        """
        in_range = ((LEAST_MEAN * rows[0].shape[1] < s1) & (s1 < MOST_SUM)).all(dim=0)
        if in_range.all():
            return Parts(torch.ones_like(s1), s1, s2, low)
        again = []
        for v in rows:
            high = v.amax(dim=1)  # torch.aminmax(dim=1) is twenty times slower
            scale = torch.where(high == 0, 1.0, high)[:, None]
            r = torch.div(v, scale, out=self._scratch("w", v.shape, v.dtype))
            again.append(torch.stack([high, r.sum(dim=1), r.square_().sum(dim=1)]).double())
        plain = torch.stack([torch.ones_like(s1), s1, s2])
        high, s1, s2 = torch.where(in_range, plain, torch.stack(again, dim=1))
        return Parts(high, s1, s2, low)

    def _denominator(self, v: Tensor, scale: Tensor) -> Tensor:
        w = self._scratch("w", v.shape, v.dtype)
        if len(self._pieces) > 1 and self.group["eps_inside_sqrt"]:  # a pass less over a large layer
            eps = torch.full((), self.group["eps"], dtype=v.dtype, device="cpu")
            return torch.add(eps, v, alpha=scale.item(), out=w).sqrt_()
        take_root([torch.mul(v, scale, out=w)], self.group)
        return w


class _Scratch:
    """Memory that serves block after block: fresh pages cost as much as what is computed in them."""

    def __init__(self) -> None:
        self._memory: dict[Any, Tensor] = {}

    def __call__(self, use: str, shape: Any, dtype: Any) -> Tensor:
        size, key = math.prod(shape), (use, dtype)
        if key not in self._memory or self._memory[key].numel() < size:
            self._memory[key] = torch.empty(size, dtype=dtype, device="cpu")  # not torch's default device
        return self._memory[key][:size].view(shape)


def _pieces(columns: Columns) -> list[list[Tensors]]:
    tensors = columns[:4]
    if len(columns.params) > 1 or real(columns.params[0]).numel() <= BLOCK:
        return [[[real(x) for x in column] for column in tensors]]
    cuts = zip(*(real(x).view(-1).split(BLOCK) for (x,) in tensors), strict=True)
    return [[[x] for x in cut] for cut in cuts]
