"""What `setadam_core.inplace` asks about NumPy's arrays: which are accepted, and where they lie in memory."""

from typing import Any

import numpy as np

from setadam_core.inplace import Memory
from setadam_core.inplace.aliasing import have_in_common

Array = np.ndarray[Any, Any]


class NumPyMemory(Memory):
    block = 1 << 15  # coordinates, in eight temporaries or so

    def as_leaf(self, x: Any) -> Array | None:
        # Views as plain arrays: in np.matrix, * would mean something else, and a mask would be ignored.
        return np.asarray(x) if isinstance(x, np.ndarray) and not isinstance(x, np.ma.MaskedArray) else None

    def view_as_real(self, x: Array) -> Array:
        return x[..., None].view(x.real.dtype)

    def bounds(self, x: Array) -> tuple[int, int]:
        if x.flags.c_contiguous:
            start: int = x.__array_interface__["data"][0]
            return start, start + x.nbytes
        return np.lib.array_utils.byte_bounds(x)

    def share(self, a: Array, b: Array) -> bool:
        return have_in_common(a, b)

    def like(self, theta: Array, dtype: str, values: Any | None) -> Array:
        new = np.zeros_like(theta, dtype=dtype, order="K")
        if values is not None:
            np.copyto(new, values)
        return new

    def to_numpy(self, x: Array) -> Array:
        return x
