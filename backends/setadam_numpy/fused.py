"""Passes parameters to the compiled kernel, those of equal dtype and options in one call."""

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from setadam_core.inplace.layout import Arrays, Task, arranged
from setadam_numpy import kernel

Batch = list[tuple[Arrays, int, int]]  # theta, grad, m, v; the number of layers that they stack; t


def why_not(dtype: Any) -> str | None:
    """What is missing for parameters of this dtype; None if the kernel can run."""
    return kernel.why_not(stored(dtype))


def step_layers(tasks: list[Task]) -> list[Task]:
    """Update theta, m and v where the kernel can; return the other tasks."""
    batches: dict[Any, Batch] = {}
    rest = []
    for task in tasks:
        if (found := layers_of(task)) is None:
            rest.append(task)
            continue
        arrays, n = found
        grad, dtype = arrays[1], stored(task.theta.dtype)
        item = (arrays, n, task.t)
        if grad.flags.c_contiguous and grad.flags.aligned:
            batches.setdefault((dtype, task.hp), []).append(item)
        else:  # on its own, so that only one gradient is copied at a time
            arrays[1] = grad.copy(order="C")
            _hand_over([item], dtype, task.hp)
    for (dtype, hp), batch in batches.items():
        _hand_over(batch, dtype, hp)
    return rest


def step_at(table: Any, sizes: Any, slices: Any, ts: Any, hp: Any, dtype: str) -> None:
    """Update arrays of which each stacks so many layers; the table and sizes are those of `kernel.Layers`."""
    layers = kernel.Layers(table, sizes, dtype)
    if np.any(slices != 1):
        layers, ts = layers.cut(slices), np.repeat(ts, slices)
    kernel.step(layers, ts, hp)


def layers_of(task: Task) -> tuple[Arrays, int] | None:
    """The arrays as `arranged`, and the number of layers that they stack; None if the kernel cannot update them."""
    if task.fused is False or why_not(task.theta.dtype):
        return None
    arrays, outer = arranged(task)
    theta, _, m, v = arrays
    return (arrays, prod(theta.shape[:outer])) if _dense(theta, m, v) else None


def _hand_over(batch: Batch, dtype: str, hp: Any) -> None:
    params, grads, ms, vs = zip(*(arrays for arrays, _, _ in batch), strict=True)
    slices, ts = [n for _, n, _ in batch], [t for _, _, t in batch]
    kernel.step_layers(params, grads, ms, vs, ts, hp, dtype=dtype, slices=slices)


def _dense(*arrays: Any) -> bool:
    """True if the kernel may use the addresses: C-contiguous, aligned and writeable. Dtypes were checked before."""
    return all([x.flags.carray for x in arrays])  # noqa: C419  # a list takes half the time


@lru_cache  # NumPy formats a dtype's name each time, which takes longer than the step of a small layer
def stored(dtype: Any) -> str:
    """The name of the dtype of a parameter's real view."""
    name = str(np.dtype(dtype))
    return {"complex64": "float32", "complex128": "float64"}.get(name, name)
