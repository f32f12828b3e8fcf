"""The readable path: `setadam_core.step`, one tensor after the other, differentiable."""

from setadam_core import State, step
from setadam_torch._layers import Group, Tensors, counts_as_tensors, hyperparameters, real


def single(
    group: Group, params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, steps: Tensors
) -> None:
    """Update params, moments and steps in place from the new arrays that the specification returns."""
    hp = hyperparameters(group)
    for param, grad, m, v, t in zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True):
        theta = param.clone() if group["differentiable"] else param  # autograd may have to keep it
        count = t.reshape(()) if counts_as_tensors(group, [t]) else int(t.item())
        new, state = step(theta, grad, State(real(m), real(v), count), hp, layer_axes=group["layer_axes"])
        param.copy_(new)
        real(m).copy_(state.m)
        real(v).copy_(state.v)
        t += 1
