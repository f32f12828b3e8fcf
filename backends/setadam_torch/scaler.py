"""What torch.amp.GradScaler asks of an optimizer that unscales and skips by itself, as `fused=True` says it does.

The scaler then sets two one-element tensors as attributes while `step` runs: grad_scale, by which gradients are to be
divided, in place, as on all of torch's paths; and found_inf: if it is not 0, nothing may change. Triton's kernels
read them on the device. For all other paths they are obeyed here.
"""

from typing import Any, NamedTuple

import torch

from setadam_torch.checks.options import Group
from setadam_torch.checks.tensors import Tensor, Tensors
from setadam_torch.paths.choice import by_path
from setadam_torch.paths.columns import Columns, columns_of, rows_of
from setadam_torch.paths.protocol import Path


class Scaler(NamedTuple):
    """The two tensors; None for one that was not left."""

    grad_scale: Tensor | None
    found_inf: Tensor | None


def left_on(optimizer: Any) -> Scaler | None:
    """What a GradScaler has left on an optimizer; None if it has left nothing."""
    scaler = Scaler(getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None))
    return None if scaler.grad_scale is None and scaler.found_inf is None else scaler


def step(group: Group, columns: Columns, scaler: Scaler) -> None:
    """One step of whole layers, each by its path, as the scaler asks."""
    if not torch.compiler.is_compiling():
        here, columns = _on_cpu(columns, scaler)
        for path, part in by_path(group, here).items():
            path.step(group, part)
    for path, part in by_path(group, columns).items():
        if path.reads_scaler:
            path.scaled_step(group, part, *scaler)
        else:
            _without_reading(path, group, part, scaler)


def _on_cpu(columns: Columns, scaler: Scaler) -> tuple[Columns, Columns]:
    """The layers on the CPU that are to be updated, unscaled; and the layers elsewhere, as they are."""
    rows, grad_scale, found_inf = list(rows_of(columns)), *scaler
    here = columns_of([row for row in rows if row[0].device.type == "cpu"])
    elsewhere = columns_of([row for row in rows if row[0].device.type != "cpu"])
    if found_inf is not None and here.params and found_inf.item() != 0:
        return Columns([], [], [], [], []), elsewhere
    if grad_scale is not None and here.params:
        torch._foreach_mul_(here.grads, 1 / grad_scale.item())
    return here, elsewhere


def _without_reading(path: type[Path], group: Group, columns: Columns, scaler: Scaler) -> None:
    """A step of any path that obeys the two tensors without reading them, so that it neither waits for a device nor
    breaks a graph: everything is updated, and put back as it was where found_inf is not 0.
    """
    grad_scale, found_inf = scaler
    before = [[x.clone() for x in column] for column in columns] if found_inf is not None else []
    if grad_scale is not None:
        _divide(columns.grads, grad_scale)
    path.step(group, columns)
    if found_inf is not None:
        keep = found_inf.reshape(()) != 0
        for column, old in zip(columns, before, strict=True):
            for x, y in zip(column, old, strict=True):
                x.copy_(torch.where(keep.to(x.device), y, x))


def _divide(grads: Tensors, grad_scale: Tensor) -> None:
    inverse = grad_scale.reshape(()).double().reciprocal()  # 0-d, so that it widens no gradient
    for grad in grads:
        grad.mul_(inverse.to(grad.device))
