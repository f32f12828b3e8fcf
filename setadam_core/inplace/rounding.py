"""Stochastic rounding in place: a 16-bit parameter takes its step in a float32 copy, and is then rounded from that.

So each path of a backend serves it. The float32 step is the 16-bit one before its last operation, to the bit.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from setadam_core.inplace.layout import Task
from setadam_core.layers import Array, dtype_name
from setadam_core.rounding import FORMATS, Rounding, random_words, to_neighbours

_TOGETHER = 1 << 24  # coordinates that are copied at a time; a larger parameter is alone


class Rounded(NamedTuple):
    """A 16-bit parameter's part of a step, and how it is rounded."""

    task: Task
    rounding: Rounding

    def widened(self) -> Task:
        """The same part of a step, on float32 copies of the parameter and the gradient."""
        theta, grad = (x.astype(self.task.m.dtype) for x in (self.task.theta, self.task.grad))
        return self.task._replace(theta=theta, grad=grad, layer=self.task.layer._replace(param_dtype=theta.dtype))

    def store(self, wide: Array, block: int) -> None:
        """Round the updated copy into the parameter, so many coordinates at a time where it has no gaps in memory."""
        theta = self.task.theta
        if not (theta.flags.c_contiguous and wide.flags.c_contiguous):
            self._store(theta, wide, _indices(0, theta.size, theta).reshape(theta.shape))
            return
        theta, wide = theta.reshape(-1), wide.reshape(-1)
        for start in range(0, theta.size, block):
            stop = min(start + block, theta.size)
            self._store(theta[start:stop], wide[start:stop], _indices(start, stop, theta))

    def _store(self, theta: Array, wide: Array, indices: Array) -> None:
        words = random_words(self.rounding.seed, self.task.t, self.rounding.layer, indices)
        theta[...] = to_neighbours(wide, dtype_name(theta), words, array_namespace(theta), _power_of_two)


def is_rounded(task: Task) -> bool:
    """Whether a parameter has a dtype that stochastic rounding concerns."""
    return dtype_name(task.theta) in FORMATS


def batches(work: Sequence[Rounded]) -> Iterator[list[Rounded]]:
    """The work in parts, of which each needs little memory for its copies."""
    batch: list[Rounded] = []
    size = 0
    for each in work:
        if batch and size + each.task.theta.size > _TOGETHER:
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += each.task.theta.size
    if batch:
        yield batch


def _indices(start: int, stop: int, like: Array) -> Array:
    """From start to before stop, modulo 2³²."""
    xp: Any = array_namespace(like)
    return xp.arange(start, stop, dtype=np.int64).astype(np.int32)


def _power_of_two(size: Array, least: float, xp: Any) -> Array:
    """`setadam_core.rounding.power_of_two_below`, from the bits: without its significant digits, a number is that."""
    return xp.maximum((size.view(np.int32) & 0x7F800000).view(np.float32), xp.asarray(least, dtype=np.float32))
