"""The multi-tensor path: torch's foreach operations over all layers of a group, in place.

It restates `setadam_core.spec.trace`, because a sequence of out-of-place steps costs several times the
memory traffic. Nothing waits for a device. The number of launches does not grow with the number of layers
but for parameters with `layer_axes`, each of which has its own: `rows` meets layers with their own numbers.

Memory: one temporary of a group's size and at most an eighth more, in the compute dtype. 16-bit parameters need two,
the denominator and the parameter widened, and are updated in two halves, so that it comes to the same unless one layer
is the larger part of the group.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch

from setadam_core.layers import Layer
from setadam_core.parts import Parts
from setadam_core.spec import bias_correction
from setadam_torch.checks import memory
from setadam_torch.checks.options import Group, asks_for_single, learning_rate
from setadam_torch.checks.tensors import Tensor, Tensors, compute_dtype, real, shape_of_layers
from setadam_torch.paths.columns import Columns, by_device_and_dtype, columns_of, rows_of
from setadam_torch.paths.counts import advance, stay_tensors
from setadam_torch.paths.parts import each_layer, parts_of
from setadam_torch.paths.protocol import Path
from setadam_torch.paths.rows import Rows


class Foreach(Path):
    """By torch's foreach operations. The only path that torch.compile traces."""

    name = "foreach"

    @classmethod
    def why_not(cls, group: Group, layer: Sequence[Tensor]) -> str | None:
        if asks_for_single(group):
            return "the options ask for one tensor after the other"
        if not memory.hold_values(layer):
            return "a tensor without memory of its values may not know operations on lists"
        return None

    @classmethod
    def begin(cls, group: Group, columns: Columns) -> list[Path]:
        if torch.compiler.is_compiling() and columns.params and columns.params[0].device.type == "cpu":
            # Inductor fuses the loops over one layer only if at most 64 operations lie between them.
            return [cls(group, columns_of([row])) for row in rows_of(columns)]
        kinds = by_device_and_dtype(columns)
        if torch.compiler.is_compiling():
            return [cls(group, kind) for kind in kinds]
        return [cls(group, part) for kind in kinds for part in _halves(kind)]

    def moments(self) -> Parts:
        *tensors, steps = self.columns
        advance(steps)
        update_moments(self.group, *tensors)
        return _parts([real(v) for v in self.columns.exp_avg_sqs], self.layers, self.group["cos_power"])

    def descend(self, gammas: Tensor, lows: Tensor) -> None:
        vs = [real(v) for v in self.columns.exp_avg_sqs]
        if torch.compiler.is_compiling() or not _are_whole(vs, self.layers):
            self._descend_one_by_one(gammas, lows)
        else:
            self._descend_together(gammas, lows)

    def _descend_together(self, gammas: Tensor, lows: Tensor) -> None:
        """Parameters of one layer each, by no more launches for many than for few."""
        group, dtype, (beta1, beta2) = self.group, compute_dtype(self.columns.params[0]), self.group["betas"]
        params, ms, vs = ([real(x) for x in xs] for xs in (self.columns.params, *self.columns[2:4]))
        lr = _number_if_known(learning_rate(group))
        if isinstance(lr, torch.Tensor):
            lr = lr.to(device=gammas.device, dtype=dtype)
        bc1, bc2 = self._bias_corrections(beta1), self._bias_corrections(beta2)
        scales = (gammas / _as_operand(bc2, gammas)).to(dtype)
        least = scales * lows.to(dtype)
        take_root([least], group)  # √(cv + ε) is monotone in v

        w = Rows(vs)
        torch._foreach_copy_(w.layers, vs)
        w.matrix.mul_(w.spread(scales))
        take_root([w.matrix], group)
        if group["tau"] != 0:
            w.matrix.sub_(w.spread(least), alpha=group["tau"])
        if isinstance(lr, torch.Tensor) or isinstance(bc1, torch.Tensor):  # addcdiv's scalars must be host numbers
            rates = -(lr / _as_operand(bc1, gammas))
            w.matrix.div_(w.spread(rates.to(dtype)))
            update_params(group, params, ms, w.layers, lr, [1.0] * len(vs))
        else:
            update_params(group, params, ms, w.layers, lr, [-lr / bc for bc in bc1])

    def _descend_one_by_one(self, gammas: Tensor, lows: Tensor) -> None:
        """Layer by layer, as Inductor fuses it; and stacks, whose layers have their numbers along axes."""
        group, (params, _, ms, vs, _) = self.group, self.columns
        dtype, device, (beta1, beta2) = compute_dtype(params[0]), params[0].device, group["betas"]
        lr = learning_rate(group)
        if isinstance(lr, torch.Tensor):
            lr = lr.to(device=device, dtype=dtype)
        params, ms, vs = ([real(x) for x in xs] for xs in (params, ms, vs))
        gammas, v_mins = self._by_parameter(gammas), self._by_parameter(lows.to(dtype))

        bc1, bc2 = (list(self._bias_corrections(beta)) for beta in (beta1, beta2))
        scales = torch._foreach_div(gammas, bc2)
        if scales[0].dtype != dtype:
            scales = _cast(scales, dtype)
        least = torch._foreach_mul(scales, v_mins)
        take_root(least, group)  # √(cv + ε) is monotone in v
        rates = [-(lr / bc) for bc in bc1]
        if torch.compiler.is_compiling() and device.type == "cpu":
            scales, least, rates = _stored(dtype, scales, least, rates)

        w = [v * scale for v, scale in zip(vs, scales, strict=True)]
        take_root(w, group)
        if group["tau"] != 0:
            for x, w_min in zip(w, least, strict=True):
                x.sub_(w_min, alpha=group["tau"])
        update_params(group, params, ms, w, lr, rates)

    def _bias_corrections(self, beta: float) -> Any:
        """1 - βᵗ for each parameter, formed in double: a list of numbers, or a tensor on the steps' device."""
        steps, layer = self.columns.steps, self.layers[0]
        if not stay_tensors(self.group, steps):
            return [bias_correction(beta, t.item(), layer) for t in steps]
        counts = torch.stack([t.reshape(()).to(torch.float64) for t in steps])
        log_beta = torch.log(torch.ones_like(counts[0]) * beta)  # a β that changes stays an input of a compiled graph
        return -torch.expm1(counts * log_beta)

    def _by_parameter(self, numbers: Tensor) -> Tensors:
        """A number for each layer, as a view for each parameter that meets its layers."""
        vs = [real(v) for v in self.columns.exp_avg_sqs]
        each = zip(numbers.split(self.widths), vs, self.layers, strict=True)
        return [x.view(shape_of_layers(v, layer)) for x, v, layer in each]


def _number_if_known(lr: Any) -> Any:
    """A stepsize that is a tensor on the CPU as its number. One on a device stays there."""
    return lr.item() if isinstance(lr, torch.Tensor) and lr.is_cpu and memory.hold_values([lr]) else lr


def _as_operand(numbers: Any, like: Tensor) -> Any:
    """A number for each layer: a tensor as it is, host's numbers as one if they are alike, else on the device."""
    return numbers if isinstance(numbers, torch.Tensor) else each_layer(numbers, [1] * len(numbers), like)


def _are_whole(vs: Tensors, layers: list[Layer]) -> bool:
    """Whether each tensor is one layer."""
    return all([len(layer.axes) == v.ndim for v, layer in zip(vs, layers, strict=True)])  # noqa: C419


def _halves(columns: Columns) -> list[Columns]:
    """The columns of 16-bit parameters, cut between layers where nearest to half of the coordinates lie before; others
    whole.
    """
    if columns.params[0].dtype.itemsize > 2:
        return [columns]
    reach = list(accumulate(param.numel() for param in columns.params))
    cut = 1 + min(range(len(reach)), key=lambda i: abs(2 * reach[i] - reach[-1]))
    halves = Columns(*(x[:cut] for x in columns)), Columns(*(x[cut:] for x in columns))
    return [part for part in halves if part.params]


def update_moments(group: Group, params: Tensors, grads: Tensors, ms: Tensors, vs: Tensors) -> None:
    """Update the moments of layers of one device and dtype."""
    dtype, (beta1, beta2), decay = compute_dtype(params[0]), group["betas"], group["weight_decay"]
    if params[0].is_complex():
        grads = [grad.resolve_conj() for grad in grads]
    params, grads, ms, vs = ([real(x) for x in xs] for xs in (params, grads, ms, vs))
    coupled = decay and not group["decoupled_weight_decay"]
    own = grads  # p.grad itself is never written
    if grads[0].dtype != dtype or group["maximize"] or coupled:
        own = _cast(grads, dtype)
    if group["maximize"]:
        torch._foreach_neg_(own)
    if coupled:
        torch._foreach_add_(own, _in_compute_dtype(params, dtype), alpha=decay)
    if torch.compiler.is_compiling():  # a number among a foreach operation's arguments is a constant of the graph
        for m, v, g in zip(ms, vs, own, strict=True):
            m.add_((g - m) * (1 - beta1))
            v.mul_(beta2).add_(g * g * (1 - beta2))
        return
    torch._foreach_lerp_(ms, own, 1 - beta1)
    torch._foreach_mul_(vs, beta2)
    torch._foreach_addcmul_(vs, own, own, 1 - beta2)


def update_params(group: Group, params: Tensors, ms: Tensors, w: Tensors, lr: Any, rates: Any) -> None:
    """Apply a decoupled weight decay, and add rate · m / w. lr and the rates of the layers are numbers or 0-d tensors.
    w may be overwritten.
    """
    theta, decay = _in_compute_dtype(params, ms[0].dtype), group["weight_decay"]
    if decay and group["decoupled_weight_decay"]:
        torch._foreach_mul_(theta, 1 - lr * decay)
    if isinstance(rates[0], torch.Tensor):  # addcdiv's scalars must be host numbers
        # Not by a foreach operation: a number among its arguments would be a constant of a compiled graph.
        torch._foreach_div_(w, rates)
        torch._foreach_addcdiv_(theta, ms, w)
    else:
        torch._foreach_addcdiv_(theta, ms, w, rates)
    if theta is not params:
        torch._foreach_copy_(params, theta)


def _stored(dtype: Any, *columns: Tensors) -> Any:
    """Columns of per-layer numbers, which a compiled loop reads from memory. Otherwise Inductor computes them within
    the loop, with their divisions in double, for each vector of coordinates again.
    """
    rows = [torch.broadcast_tensors(*row) for row in zip(*columns, strict=True)]
    return zip(*(torch.stack([x.to(dtype) for x in row]) for row in rows), strict=True)


def _cast(xs: Tensors, dtype: Any) -> Tensors:
    new = [torch.empty_like(x, dtype=dtype) for x in xs]
    torch._foreach_copy_(new, xs)
    return new


def _in_compute_dtype(xs: Tensors, dtype: Any) -> Tensors:
    return xs if xs[0].dtype == dtype else _cast(xs, dtype)


def take_root(w: Tensors, group: Group) -> None:
    """E: √(w + ε), or √w + ε, in place."""
    if group["eps_inside_sqrt"]:
        torch._foreach_add_(w, group["eps"])
    torch._foreach_sqrt_(w)
    if not group["eps_inside_sqrt"]:
        torch._foreach_add_(w, group["eps"])


def _parts(vs: Tensors, layers: list[Layer], power: float) -> Parts:
    """Of each layer. In double no float32 v² under- or overflows. So the scale is 1, and Σv, Σv² and min v can share
    one pass, where a scale of max v needs two passes and a temporary.
    """
    if vs[0].dtype != torch.float32:
        if _lists_are_faster(vs, layers):
            return _scaled_parts(vs, layers)
        return Parts(*torch.cat([parts_of(v, layer) for v, layer in zip(vs, layers, strict=True)], dim=1))
    if power == 0:  # γ is 1, whatever v is
        low = torch.cat(_minima(vs, layers)).double()
        return Parts(torch.ones_like(low), torch.ones_like(low), torch.ones_like(low), low)
    s1, norm = (torch.cat(x) for x in _norms(vs, layers))
    low = torch.cat(_minima(vs, layers)).double()
    return Parts(torch.where(s1 == 0, 0.0, torch.ones_like(s1)), s1, norm.square(), low)


def _scaled_parts(vs: Tensors, layers: list[Layer]) -> Parts:
    """`parts_of` for many layers at once: in units of each one's maximum."""
    high = torch.stack(torch._foreach_max(vs))
    r = Rows(vs)
    torch._foreach_copy_(r.layers, vs)
    r.matrix.div_(r.spread(torch.where(high == 0, 1.0, high)))
    s1, norm = (torch.cat(x) for x in _norms(r.layers, layers))
    return Parts(high, s1, norm.square(), torch.cat(_minima(vs, layers)))


def _minima(vs: Tensors, layers: list[Layer]) -> Tensors:
    if _lists_are_faster(vs, layers):  # there is no foreach minimum
        return [-torch.stack(torch._foreach_max(torch._foreach_neg(vs)))]
    return [layer.min(v).reshape(-1) for v, layer in zip(vs, layers, strict=True)]


def _norms(vs: Tensors, layers: list[Layer]) -> tuple[Tensors, Tensors]:
    """Σv and √Σv² of each layer, in double."""
    if _lists_are_faster(vs, layers):
        s1, norms = ([torch.stack(torch._foreach_norm(vs, n, dtype=torch.float64))] for n in (1, 2))
        return s1, norms
    each = [_norms_of(v, layer) for v, layer in zip(vs, layers, strict=True)]
    return [s1 for s1, _ in each], [norm for _, norm in each]


def _norms_of(v: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    if not layer.axes:  # each coordinate is a layer, which has the direction of 1; torch would sum over all axes
        direction = (v / torch.where(v == 0, 1, v)).double().reshape(-1)
        return direction, direction
    s1 = v.sum(layer.axes, dtype=torch.float64)
    norm = torch.linalg.vector_norm(v, 2, layer.axes, dtype=torch.float64)
    return s1.reshape(-1), norm.reshape(-1)


def _lists_are_faster(vs: Tensors, layers: list[Layer]) -> bool:
    """Whether to reduce all layers by one foreach operation: on a device, uncompiled. No foreach operation reduces
    along axes.
    """
    return vs[0].is_cuda and _are_whole(vs, layers) and not torch.compiler.is_compiling()
