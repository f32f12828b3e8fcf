"""Checks that arrays which are updated in place do not share memory: the step of one would change another."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

Array = Any  # strided: with `shape`, `strides` in bytes, and `itemsize`, as NumPy's and CuPy's
Bounds = Callable[[Array], tuple[int, int]]  # address of the first byte, and of the one after the last
Share = Callable[[Array, Array], bool]  # True if two arrays whose bounds overlap have an element in common

_MAX_WORK = 100_000  # steps of the search for a common element


class Footprint:
    """The memory that arrays occupy, sorted by address, so that thousands of them can be compared fast."""

    def __init__(self, arrays: Mapping[str, Array], bounds: Bounds) -> None:
        self.arrays = arrays
        self._bounds = bounds
        self._spans = sorted((*bounds(x), name) for name, x in arrays.items() if x.size)
        self._reach = list(accumulate((high for _, high, _ in self._spans), max))

    def touched_by(self, low: Any, high: Any) -> Any:
        """Whether the bounds from low[i] to high[i] overlap those of any array, for each i. Arrays of int64."""
        before = np.searchsorted(self._lows, high)
        return self._reaches[before] > low

    @cached_property
    def _lows(self) -> Any:
        return np.array([low for low, _, _ in self._spans], np.int64)

    @cached_property
    def _reaches(self) -> Any:
        return np.array([0, *self._reach], np.int64)

    def near(self, x: Array) -> Iterator[str]:
        """The names of the arrays whose bounds overlap those of x. None if x is empty."""
        low, high = self._bounds(x)
        i = bisect_left(self._spans, (high,)) - 1
        while i >= 0 and self._reach[i] > low:
            _, end, name = self._spans[i]
            if end > low and x.size:
                yield name
            i -= 1


def check_separate(arrays: Mapping[str, Array], bounds: Bounds, share: Share) -> Footprint:
    """The footprint of the arrays. ValueError, naming them, if two share memory or one overlaps itself.

    Interleaved arrays, such as the columns of one matrix, do not share memory.
    """
    footprint = Footprint(arrays, bounds)
    for name, x in arrays.items():
        if _overlaps_itself(x):
            raise ValueError(f"{name} must not overlap itself, got strides {x.strides}")
        for other in footprint.near(x):
            if other != name and share(x, arrays[other]):
                raise ValueError(f"{name} and {other} share memory: each must have its own")
    return footprint


def have_in_common(a: Any, b: Any) -> bool:
    """True if two NumPy arrays have an element in common, or if telling would take too long."""
    try:
        return np.shares_memory(a, b, max_work=_MAX_WORK)  # type: ignore[arg-type]  # any number may be given
    except np.exceptions.TooHardError:
        return True


def _overlaps_itself(x: Array) -> bool:
    """True also for a few unusual strides with which it might not: those are not worth a search."""
    if x.size == 0:
        return False
    reach = x.itemsize
    for stride, n in sorted((abs(stride), n) for stride, n in zip(x.strides, x.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (n - 1)
    return False
