"""The readable path: `setadam_core.step`, one tensor after the other, differentiable."""

from typing import Any

from setadam_core import Hyperparameters, State, step
from setadam_torch._layers import Tensor, real


def single_tensor(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    hp: Hyperparameters,
    group: dict[str, Any],
) -> None:
    """Update params, moments and steps in place from the new arrays that the specification returns."""
    for param, grad, m, v, t in zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True):
        theta = param.clone() if group["differentiable"] else param  # autograd may have to keep it
        count = t if group["capturable"] else int(t.item())
        new, state = step(theta, grad, State(real(m), real(v), count), hp, layer_axes=group["layer_axes"])
        param.copy_(new)
        real(m).copy_(state.m)
        real(v).copy_(state.v)
        t += 1
