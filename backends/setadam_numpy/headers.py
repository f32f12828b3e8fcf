"""What NumPy knows of many arrays, read at once from the headers of the array objects.

Python reads an array's address in 1.4 µs (`__array_interface__`), and its shape, strides, dtype and flags in another
0.3: for the four arrays of a small layer, several times as long as its step. Here all of it takes 0.1 µs, since the
memory of the process is viewed as one array of 64-bit words, from which NumPy gathers the headers of all arrays in one
call.

The header is the struct `PyArrayObject_fields` of NumPy's ndarraytypes.h. Its layout is part of NumPy's binary
interface, on which every compiled extension relies. Still, it is used only after a comparison with what Python says of
a few arrays (`available`), and never without the GIL, since then nothing would keep arrays as they are.
"""

import ctypes
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

# Rows of `Headers.words`.
ID, DATA, NDIM, DTYPE, FLAGS = range(5)
ALIGNED = 0x100  # a flag

# Words of the struct, which follow those of any Python object. Of "nd" and "flags" only the lower half is used.
_STRUCT = ("data", "nd", "dimensions", "strides", "base", "descr", "flags")
_OBJECT = object.__basicsize__
_HALF = (1 << 32) - 1
_ORIGIN = 64  # the address of the first word of `_memory`: ctypes refuses 0


class Headers(NamedTuple):
    """Of n arrays. lengths and strides: those of the axes of the first array, then those of the second, …"""

    words: Integers  # (5, n): id of the array, address of its data, number of axes, id of its dtype, flags
    lengths: Integers  # (Σ ndim,)
    strides: Integers  # (Σ ndim,), in bytes


def headers(arrays: Sequence[Any]) -> Headers | None:
    """The headers as they are now. None if one is not of the type ndarray itself, or if they cannot be read here."""
    return _read(arrays) if available() and set(map(type, arrays)) <= {np.ndarray} else None


@lru_cache
def available() -> bool:
    """Whether the headers of this NumPy on this Python are what they are taken for."""
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    if ctypes.sizeof(ctypes.c_void_p) != 8 or np.ndarray.__basicsize__ < _OBJECT + 8 * len(_STRUCT):
        return False
    whole = np.ones((3, 4, 5), np.float32)
    samples: list[Any] = [
        whole,
        whole[1:, ::2],
        whole.T,
        whole[0, ::-1],
        np.ones(7, np.float64),
        np.ones((2, 0, 3), np.complex64),
    ]
    samples += [np.broadcast_to(whole, (2, 3, 4, 5)), np.ones(9, np.uint8)[1:].view(np.float16), np.array(1.0)]
    found = _read(samples)
    return (
        found is not None
        and found.words.T.tolist() == [[id(x), _address(x), x.ndim, id(x.dtype), x.flags.num] for x in samples]
        and found.lengths.tolist() == [n for x in samples for n in x.shape]
        and found.strides.tolist() == [n for x in samples for n in x.strides]
    )


def _read(arrays: Sequence[Any]) -> Headers | None:
    """None if lengths and strides do not lie as NumPy lays them, the strides right behind the lengths."""
    ids = np.fromiter(map(id, arrays), np.int64, len(arrays))
    data, ndim, lengths, strides, _, dtype, flags = _at(ids + _OBJECT + 8 * np.arange(len(_STRUCT))[:, None])
    ndim, flags = ndim & _HALF, flags & _HALF
    if np.any((strides - lengths != 8 * ndim) & (ndim > 0)):
        return None
    end = np.cumsum(ndim)
    within = 8 * np.arange(end[-1] if len(end) else 0)  # of each axis, counted from the first one of all
    starts = np.repeat(lengths - 8 * (end - ndim), ndim) + within
    return Headers(np.stack([ids, data, ndim, dtype, flags]), _at(starts), _at(starts + 8 * np.repeat(ndim, ndim)))


def _at(addresses: Integers) -> Integers:
    """The words at these addresses."""
    return _memory().take((addresses - _ORIGIN) >> 3)


@lru_cache
def _memory() -> Integers:
    """All memory from _ORIGIN on, as words. None is read before it is indexed."""
    words: Integers = np.frombuffer((ctypes.c_int64 * (1 << 59)).from_address(_ORIGIN), np.int64)  # type: ignore[call-overload]
    words.flags.writeable = False
    return words


def _address(x: Any) -> int:
    return int(x.__array_interface__["data"][0])
