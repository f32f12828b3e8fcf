"""What torch.amp.GradScaler asks of an optimizer that unscales and skips by itself, as `fused=True` says of it.

The scaler then leaves two one-element tensors as attributes while `step` runs: grad_scale, by which gradients are to be
divided, in place, as on all of torch's paths; and found_inf: where it is not 0, nothing may change. Triton's kernels
read them on the device. Everywhere else they are seen to here.
"""

from collections.abc import Callable
from typing import Any

import torch

from setadam_torch._layers import Group, Tensor, Tensors

Columns = Any  # params, grads, exp_avgs, exp_avg_sqs, steps
NAMES = ("grad_scale", "found_inf")


def on_cpu(columns: Columns, grad_scale: Tensor | None, found_inf: Tensor | None) -> tuple[Columns, Columns]:
    """Layers on the CPU that are left to update, unscaled; and the layers elsewhere, as they are."""
    here: Columns = [[] for _ in columns]
    elsewhere: Columns = [[] for _ in columns]
    for row in zip(*columns, strict=True):
        for column, x in zip(here if row[0].device.type == "cpu" else elsewhere, row, strict=True):
            column.append(x)
    if found_inf is not None and here[0] and found_inf.item() != 0:
        here = [[] for _ in columns]
    if grad_scale is not None and here[0]:
        torch._foreach_mul_(here[1], 1 / grad_scale.item())
    return here, elsewhere


def without_reading(
    path: Callable[..., None],
    group: Group,
    columns: Columns,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """A step of any path that obeys the two tensors without reading them, so that it neither waits for a device nor
    breaks a graph: everything is updated, and put back as it was where found_inf is not 0.
    """
    before = [[x.clone() for x in column] for column in columns] if found_inf is not None else []
    if grad_scale is not None:
        _divide(columns[1], grad_scale)
    path(group, *columns)
    if found_inf is not None:
        keep = found_inf.reshape(()) != 0
        for column, old in zip(columns, before, strict=True):
            for x, y in zip(column, old, strict=True):
                x.copy_(torch.where(keep.to(x.device), y, x))


def _divide(grads: Tensors, grad_scale: Tensor) -> None:
    inverse = grad_scale.reshape(()).double().reciprocal()  # 0-d, so that it widens no gradient
    for grad in grads:
        grad.mul_(inverse.to(grad.device))
