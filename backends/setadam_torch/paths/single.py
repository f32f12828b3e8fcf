"""The specification itself: `setadam_core.step`, one tensor after the other, by single operations. Serves everything,
and autograd can run through it.
"""

from collections.abc import Sequence

import torch

from setadam_core import State, step, trace
from setadam_core.parts import Parts, denominator
from setadam_core.spec import bias_correction
from setadam_torch.checks.options import Group, hyperparameters
from setadam_torch.checks.tensors import Tensor, real, shape_of_layers
from setadam_torch.paths.columns import Columns, rows_of
from setadam_torch.paths.counts import stay_tensors
from setadam_torch.paths.parts import parts_of
from setadam_torch.paths.protocol import Path


class Single(Path):
    """By the specification's functions."""

    name = "single"

    @classmethod
    def why_not(cls, group: Group, layer: Sequence[Tensor]) -> str | None:
        return None

    def moments(self) -> Parts:
        hp, parts = hyperparameters(self.group), []
        for (param, grad, m, v, t), layer in zip(rows_of(self.columns), self.layers, strict=True):
            state = State(real(m), real(v), _count(self.group, t))
            new = trace(param, grad, state, hp, layer_axes=self.group["layer_axes"])
            real(m).copy_(new.m)
            real(v).copy_(new.v)
            t += 1
            parts.append(parts_of(new.v, layer))
        return Parts(*torch.cat(parts, dim=1))

    def descend(self, gammas: Tensor, lows: Tensor) -> None:
        hp, known = hyperparameters(self.group), zip(gammas.split(self.widths), lows.split(self.widths), strict=True)
        for (param, _, m, v, t), layer, pair in zip(rows_of(self.columns), self.layers, known, strict=True):
            m, v, t = real(m), real(v), _count(self.group, t)
            gamma, low = (x.to(layer.dtype).view(shape_of_layers(v, layer)) for x in pair)
            w, _ = denominator(v, gamma, low, t, layer, hp)
            theta, c = real(param).to(layer.dtype), layer.coefficient
            if hp.decays and hp.decoupled_weight_decay:
                theta = c(1 - hp.lr * hp.weight_decay) * theta
            real(param).copy_(theta - c(hp.lr / bias_correction(hp.beta1, t, layer)) * m / w)

    @classmethod
    def step(cls, group: Group, columns: Columns) -> None:
        hp = hyperparameters(group)
        for param, grad, m, v, t in rows_of(columns):
            theta = param.clone() if group["differentiable"] else param  # autograd may have to keep it
            state = State(real(m), real(v), _count(group, t))
            new, state = step(theta, grad, state, hp, layer_axes=group["layer_axes"])
            param.copy_(new)
            real(m).copy_(state.m)
            real(v).copy_(state.v)
            t += 1


def _count(group: Group, t: Tensor) -> Tensor | int:
    return t.reshape(()) if stay_tensors(group, [t]) else int(t.item())
