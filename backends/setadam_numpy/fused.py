"""Which parameters the compiled kernel takes, and handing them over: all of equal dtype and options at once."""

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from setadam_core.inplace.layout import Arrays, Task, arranged
from setadam_numpy import kernel

Batch = list[tuple[Arrays, int, int]]  # theta, grad, m, v; how many layers they stack; t


def why_not(dtype: Any) -> str | None:
    """None if there is a kernel for parameters of this dtype, else what is missing."""
    return kernel.why_not(_stored(dtype))


def step_layers(tasks: list[Task]) -> list[Task]:
    """Update theta, m and v of what the kernel can take; return the rest."""
    batches: dict[Any, Batch] = {}
    rest = []
    for task in tasks:
        arrays, outer = arranged(task)
        theta, grad, m, v = arrays
        dtype = _stored(theta.dtype)
        if task.fused is False or why_not(theta.dtype) or not _dense(theta, m, v):
            rest.append(task)
            continue
        item = (arrays, prod(theta.shape[:outer]), task.t)
        if grad.flags.c_contiguous and grad.flags.aligned:
            batches.setdefault((dtype, task.hp), []).append(item)
        else:  # by itself, so that no more than one layer's gradient is copied at a time
            arrays[1] = grad.copy(order="C")
            _hand_over([item], dtype, task.hp)
    for (dtype, hp), batch in batches.items():
        _hand_over(batch, dtype, hp)
    return rest


def _hand_over(batch: Batch, dtype: str, hp: Any) -> None:
    params, grads, ms, vs = zip(*(arrays for arrays, _, _ in batch), strict=True)
    slices, ts = [n for _, n, _ in batch], [t for _, _, t in batch]
    kernel.step_layers(params, grads, ms, vs, ts, hp, dtype=dtype, slices=slices)


def _dense(*arrays: Any) -> bool:
    """Whether the kernel may have the addresses: C-contiguous, aligned and writeable. Dtypes are checked."""
    return all([x.flags.carray for x in arrays])  # noqa: C419  # a list takes half the time


@lru_cache  # NumPy makes a dtype's name anew each time, which costs more than a small layer's step
def _stored(dtype: Any) -> str:
    """The name of the real dtype of a parameter's numbers."""
    name = str(np.dtype(dtype))
    return {"complex64": "float32", "complex128": "float64"}.get(name, name)
