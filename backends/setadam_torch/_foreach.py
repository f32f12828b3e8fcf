"""The multi-tensor path: torch's foreach operations over all layers of a group, in place.

It restates `setadam_core.spec.trace`, because a sequence of out-of-place steps costs several times the
memory traffic. Nothing waits for a device. The number of launches does not grow with the number of
layers, but for what torch has no foreach operation for: scaling a layer by its own γ and taking its
own minimum off (two launches a layer; three more for its stepsize where that is on the device), and the
reductions of float64 or `layer_axes` layers.

Memory: one temporary of a group's size, in the compute dtype. 16-bit parameters need two, the denominator and
the parameter widened, and are updated in two halves, so that it comes to the same unless one layer is the
larger part of the group.
"""

import math
from itertools import accumulate
from typing import Any

import torch

from setadam_core.layers import Layer
from setadam_core.spec import down_scaling
from setadam_torch._layers import (
    Group,
    Tensor,
    Tensors,
    advance,
    compute_dtype,
    counts_as_tensors,
    layer_of,
    learning_rate,
    real,
)


def foreach(
    group: Group, params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, steps: Tensors
) -> None:
    """Update params, moments and steps in place, one bucket of equal device and dtype after the other."""
    if not params:
        return
    advance(steps)
    buckets: dict[Any, Any] = {}  # by device and dtype, the columns of _update
    for i, (param, *rest) in enumerate(zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True)):
        if param.numel() > 0:  # foreach reductions refuse empty tensors
            # Inductor leaves loops over the same memory apart if over 64 operations lie between: layer after layer.
            alone = i if _compiling_for_cpu(param) else None
            bucket = buckets.setdefault((param.device, param.dtype, alone), ([], [], [], [], [], []))
            layer = layer_of(param, group["layer_axes"])
            for column, x in zip(bucket, (param, *rest, layer), strict=True):
                column.append(x)
    for (_, dtype, _), bucket in buckets.items():
        for part in _halves(bucket) if dtype.itemsize == 2 and not torch.compiler.is_compiling() else (bucket,):
            _update(group, *part)


def _halves(bucket: Any) -> list[Any]:
    """A bucket cut between the layers where nearest to half of its coordinates lie before; a single layer whole."""
    reach = list(accumulate(param.numel() for param in bucket[0]))
    cut = 1 + min(range(len(reach)), key=lambda i: abs(2 * reach[i] - reach[-1]))
    return [part for part in ([x[:cut] for x in bucket], [x[cut:] for x in bucket]) if part[0]]


def _update(
    group: Group,
    params: Tensors,
    grads: Tensors,
    ms: Tensors,
    vs: Tensors,
    steps: Tensors,
    layers: list[Layer],
) -> None:
    moments(group, params, grads, ms, vs)
    real_vs = [real(v) for v in vs]
    gammas, v_mins = _gammas(real_vs, layers, group["cos_power"]), _minima(real_vs, layers)
    descend(group, params, ms, vs, steps, gammas, v_mins)


def moments(group: Group, params: Tensors, grads: Tensors, ms: Tensors, vs: Tensors) -> None:
    """The first phase, up to the statistics of v: update the moments of layers of one device and dtype."""
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


def descend(
    group: Group,
    params: Tensors,
    ms: Tensors,
    vs: Tensors,
    steps: Tensors,
    gammas: Tensors,
    v_mins: Tensors,
) -> None:
    """The second phase: update the parameters, given γ and min v of each layer; steps count this one."""
    dtype, device = compute_dtype(params[0]), params[0].device
    (beta1, beta2), eps, lr = group["betas"], group["eps"], learning_rate(group)
    if isinstance(lr, torch.Tensor):
        lr = lr.to(device=device, dtype=dtype)
    params, ms, vs = ([real(x) for x in xs] for xs in (params, ms, vs))

    bc1, bc2 = (_bias_corrections(beta, steps, counts_as_tensors(group, steps)) for beta in (beta1, beta2))
    scales = torch._foreach_div(gammas, bc2)
    if scales[0].dtype != dtype:
        scales = _cast(scales, dtype)
    least = torch._foreach_mul(scales, v_mins)
    _root(least, eps, group)  # √(cv + ε) is monotone in v
    rates = [-(lr / bc) for bc in bc1]
    if _compiling_for_cpu(params[0]):
        scales, least, rates = _stored(dtype, scales, least, rates)

    w = [v * scale for v, scale in zip(vs, scales, strict=True)]
    _root(w, eps, group)
    if group["tau"] != 0:
        for x, w_min in zip(w, least, strict=True):
            x.sub_(w_min, alpha=group["tau"])
    update(group, params, ms, w, lr, rates)


def update(group: Group, params: Tensors, ms: Tensors, w: Tensors, lr: Any, rates: Any) -> None:
    """Decay the parameters, where that is decoupled, and add rate · m / w: numbers, or 0-d tensors for lr and the
    rate of each layer. w may be overwritten.
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


def _compiling_for_cpu(param: Tensor) -> bool:
    return torch.compiler.is_compiling() and param.device.type == "cpu"  # type: ignore[no-any-return]


def _stored(dtype: Any, *columns: Tensors) -> Any:
    """Columns of a number for each layer, which a compiled loop reads from memory. Otherwise Inductor forms
    the numbers within the loop, with their divisions in double, anew for each vector of coordinates.
    """
    rows = [torch.broadcast_tensors(*row) for row in zip(*columns, strict=True)]
    return zip(*(torch.stack([x.to(dtype) for x in row]) for row in rows), strict=True)


def _cast(xs: Tensors, dtype: Any) -> Tensors:
    new = [torch.empty_like(x, dtype=dtype) for x in xs]
    torch._foreach_copy_(new, xs)
    return new


def _in_compute_dtype(xs: Tensors, dtype: Any) -> Tensors:
    return xs if xs[0].dtype == dtype else _cast(xs, dtype)


def _root(w: Tensors, eps: float, group: Group) -> None:
    """√(w + ε), or √w + ε, in place."""
    if group["eps_inside_sqrt"]:
        torch._foreach_add_(w, eps)
    torch._foreach_sqrt_(w)
    if not group["eps_inside_sqrt"]:
        torch._foreach_add_(w, eps)


def _bias_corrections(beta: float, steps: Tensors, as_tensors: bool) -> Any:
    """1 - βᵗ for each layer, formed in double: numbers, or 0-d tensors on the steps' device."""
    if not as_tensors:
        return [-math.expm1(t.item() * math.log(beta)) if beta else 1.0 for t in steps]
    counts = torch.stack([t.reshape(()).to(torch.float64) for t in steps])
    log_beta = torch.log(torch.ones_like(counts[0]) * beta)  # a β that changes stays an input of a compiled graph
    return list(-torch.expm1(counts * log_beta))


def _minima(vs: Tensors, layers: list[Layer]) -> Tensors:
    """The least v of each layer."""
    if _multi_tensor_reductions(vs, layers):  # there is no foreach minimum
        return torch._foreach_neg(torch._foreach_max(torch._foreach_neg(vs)))  # type: ignore[no-any-return]
    return [layer.min(v) for v, layer in zip(vs, layers, strict=True)]


def _gammas(vs: Tensors, layers: list[Layer], power: float) -> Tensors:
    """γ for each layer. In double no float32 v² under- or overflows, so that it is free of scale; and Σv,
    Σv² and min v can share one pass, where the specification's v / max v needs two and a temporary.
    """
    if vs[0].dtype != torch.float32 or power == 0:
        return [down_scaling(v, layer, power) for v, layer in zip(vs, layers, strict=True)]
    if _multi_tensor_reductions(vs, layers):
        s1 = torch.stack(torch._foreach_norm(vs, 1, dtype=torch.float64))
        s2 = torch.stack(torch._foreach_norm(vs, 2, dtype=torch.float64)).square()
        size = torch.stack([torch.full_like(s1[0], layer.size) for layer in layers])
        return list(_cosine(s1, s2, size, power))
    return [_gamma(v, layer, power) for v, layer in zip(vs, layers, strict=True)]


def _gamma(v: Tensor, layer: Layer, power: float) -> Tensor:
    if not layer.axes:  # each coordinate is a layer; and no axes would mean all of them
        return torch.where(v.isfinite(), 1.0, torch.nan)
    s1 = v.sum(layer.axes, keepdim=True, dtype=torch.float64)
    s2 = torch.linalg.vector_norm(v, 2, layer.axes, keepdim=True, dtype=torch.float64).square()
    return _cosine(s1, s2, layer.size, power)


def _cosine(s1: Tensor, s2: Tensor, size: Any, power: float) -> Tensor:
    cos2 = torch.where(s2 == 0, 1.0, (s1 / size) * (s1 / s2)).clamp(max=1.0)
    return cos2 if power == 2 else cos2 ** (power / 2)


def _multi_tensor_reductions(vs: Tensors, layers: list[Layer]) -> bool:
    """Whether foreach reductions serve: eager on a device (compilers fuse, the CPU is not faster)."""
    whole = all(len(layer.axes) == v.ndim for v, layer in zip(vs, layers, strict=True))
    return vs[0].is_cuda and whole and not torch.compiler.is_compiling()
