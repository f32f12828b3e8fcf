"""Step counts, which are tensors: counting up, and reading them without waiting where that is possible."""

import torch

from setadam_torch.checks import memory
from setadam_torch.checks.options import Group
from setadam_torch.checks.tensors import Tensors


def advance(steps: Tensors) -> None:
    """Add 1 to each step count. Waits for no device."""
    if steps and (torch.compiler.is_compiling() or memory.hold_values(steps)):
        torch._foreach_add_(steps, 1)
        return
    for t in steps:  # some kinds of tensors know no operations on lists
        t.add_(1)


def count_up(steps: Tensors) -> list[float]:
    """Add 1 to each step count, and return them as numbers. Waits for a device where one is there."""
    usual = all(t.is_cpu and t.ndim == 0 and t.dtype == torch.float64 for t in steps)
    if steps and usual and memory.hold_values(steps):
        torch._foreach_add_(steps, torch.ones((), dtype=torch.float64, device="cpu"))  # a number takes 2 µs for each
        return torch.stack(steps).tolist()  # type: ignore[no-any-return]
    advance(steps)
    return [float(t.item()) for t in steps]


def stay_tensors(group: Group, steps: Tensors) -> bool:
    """Whether a step must not read its counts: to stay in a graph, or because there is nothing to read."""
    if torch.compiler.is_compiling() or any(map(memory.is_unreadable, steps)):
        return True
    return bool(group["capturable"]) and memory.hold_values(steps)  # others may not go into operations with plain ones
