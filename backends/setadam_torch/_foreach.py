"""The multi-tensor path: torch's foreach operations over all layers of a group, in place.

It restates `setadam_core.spec.trace`, because a sequence of out-of-place steps costs several times the
memory traffic. Nothing waits for a device. The number of launches does not grow with the number of
layers, but for what torch has no foreach operation for: scaling a layer by its own γ and taking its
own minimum off (two launches a layer), and the reductions of float64 or `layer_axes` layers.

Memory: one temporary of a group's size, in the compute dtype; a second for 16-bit parameters.
"""

import math
from typing import Any

import torch

from setadam_core.layers import Layer
from setadam_core.spec import down_scaling
from setadam_torch._layers import Group, Tensors, compute_dtype, layer_of, real


def foreach(
    group: Group, params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, steps: Tensors
) -> None:
    """Update params, moments and steps in place, one bucket of equal device and dtype after the other."""
    if not params:
        return
    torch._foreach_add_(steps, 1)
    buckets: dict[Any, Any] = {}  # by device and dtype, the columns of _update
    for param, *rest in zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True):
        if param.numel() > 0:  # foreach reductions refuse empty tensors
            bucket = buckets.setdefault((param.device, param.dtype), ([], [], [], [], [], []))
            layer = layer_of(param, group["layer_axes"])
            for column, x in zip(bucket, (param, *rest, layer), strict=True):
                column.append(x)
    for bucket in buckets.values():
        _update(group, *bucket)


def _update(
    group: Group,
    params: Tensors,
    grads: Tensors,
    ms: Tensors,
    vs: Tensors,
    steps: Tensors,
    layers: list[Layer],
) -> None:
    dtype, device = compute_dtype(params[0]), params[0].device
    (beta1, beta2), eps, decay = group["betas"], group["eps"], group["weight_decay"]
    lr = group["lr"]
    if isinstance(lr, torch.Tensor):
        lr = lr.to(device=device, dtype=dtype)
    params, grads, ms, vs = ([real(x) for x in xs] for xs in (params, grads, ms, vs))
    theta = params if params[0].dtype == dtype else _cast(params, dtype)

    own = grads if grads[0].dtype == dtype else _cast(grads, dtype)  # p.grad itself is never written
    if group["maximize"]:
        own = torch._foreach_neg(own)
    if decay and not group["decoupled_weight_decay"]:
        own = torch._foreach_add(own, theta, alpha=decay)
    torch._foreach_lerp_(ms, own, 1 - beta1)
    torch._foreach_mul_(vs, beta2)
    torch._foreach_addcmul_(vs, own, own, 1 - beta2)
    del own  # before w is allocated, so that they are never there together

    traced = group["capturable"] or torch.compiler.is_compiling()
    bc1, bc2 = (_bias_corrections(beta, steps, traced) for beta in (beta1, beta2))
    gammas = _gammas(vs, layers, group["cos_power"])
    scales = [gamma / bc for gamma, bc in zip(gammas, bc2, strict=True)]
    scales = [scale.to(dtype) for scale in scales]
    w, v_mins = _scaled(vs, layers, scales)
    if group["eps_inside_sqrt"]:
        torch._foreach_add_(w, eps)
    torch._foreach_sqrt_(w)
    if not group["eps_inside_sqrt"]:
        torch._foreach_add_(w, eps)
    if group["tau"] != 0:
        for x, v_min, scale in zip(w, v_mins, scales, strict=True):  # √(cv + ε) is monotone in v
            least = scale * v_min
            least = (least + eps).sqrt() if group["eps_inside_sqrt"] else least.sqrt() + eps
            x.sub_(least, alpha=group["tau"])

    if decay and group["decoupled_weight_decay"]:
        torch._foreach_mul_(theta, 1 - lr * decay)
    if traced or isinstance(lr, torch.Tensor):  # addcdiv's scalars must be host numbers
        torch._foreach_div_(w, [-(lr / bc) for bc in bc1] if not traced else list(-(lr / bc1)))
        torch._foreach_addcdiv_(theta, ms, w)
    else:
        torch._foreach_addcdiv_(theta, ms, w, [-(lr / bc) for bc in bc1])
    if theta is not params:
        torch._foreach_copy_(params, theta)


def _cast(xs: Tensors, dtype: Any) -> Tensors:
    new = [torch.empty_like(x, dtype=dtype) for x in xs]
    torch._foreach_copy_(new, xs)
    return new


def _bias_corrections(beta: float, steps: Tensors, traced: bool) -> Any:
    """1 - βᵗ for each layer: numbers formed in double, or a 1-d tensor on the steps' device."""
    if beta == 0:
        return torch.ones_like(torch.stack(steps)) if traced else [1.0] * len(steps)
    if traced:
        return -torch.expm1(torch.stack(steps) * math.log(beta))
    return [-math.expm1(t.item() * math.log(beta)) for t in steps]


def _scaled(vs: Tensors, layers: list[Layer], scales: Tensors) -> tuple[Tensors, Tensors]:
    """c·v, in fresh memory, and min v, for each layer."""
    if _multi_tensor_reductions(vs, layers):
        w = torch._foreach_neg(vs)
        v_mins = torch._foreach_neg(torch._foreach_max(w))  # there is no foreach minimum
        for x, scale in zip(w, scales, strict=True):
            x.mul_(-scale)
        return w, v_mins
    w = [v * scale for v, scale in zip(vs, scales, strict=True)]
    return w, [layer.min(v) for v, layer in zip(vs, layers, strict=True)]


def _gammas(vs: Tensors, layers: list[Layer], power: float) -> Tensors:
    """γ for each layer. In double no float32 v² under- or overflows, so that it is free of scale."""
    if not _multi_tensor_reductions(vs, layers) or vs[0].dtype != torch.float32 or power == 0:
        return [down_scaling(v, layer, power) for v, layer in zip(vs, layers, strict=True)]
    s1 = torch.stack(torch._foreach_norm(vs, 1, dtype=torch.float64))
    s2 = torch.stack(torch._foreach_norm(vs, 2, dtype=torch.float64)).square()
    size = torch.stack([torch.full_like(s1[0], layer.size) for layer in layers])
    cos2 = torch.where(s2 == 0, 1.0, (s1 / size) * (s1 / s2)).clamp(max=1.0)
    return list(cos2 ** (power / 2))


def _multi_tensor_reductions(vs: Tensors, layers: list[Layer]) -> bool:
    """Whether foreach reductions serve: eager on a device (compilers fuse, the CPU is not faster)."""
    whole = all(len(layer.axes) == v.ndim for v, layer in zip(vs, layers, strict=True))
    return vs[0].is_cuda and whole and not torch.compiler.is_compiling()
