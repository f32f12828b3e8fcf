"""What `setadam_core.inplace` asks about CuPy's arrays: which are accepted, and where they lie on their device."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from setadam_core.inplace import Memory
from setadam_core.inplace.aliasing import have_in_common
from setadam_core.layers import Array


class CuPyMemory(Memory):
    dtypes = ("float16", "float32", "float64", "complex64", "complex128")  # those that the kernels support

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    def check_aligned(self, what: str, name: str, x: Array) -> None:
        # The device would find out later, and then refuse all further work from this process.
        wanted = x.itemsize // 2 if x.dtype.kind == "c" else x.itemsize
        if x.data.ptr % wanted:
            raise ValueError(
                f"{what} {name!r} must lie at a multiple of {wanted} bytes, got the address {x.data.ptr:#x}"
            )

    def as_leaf(self, x: Any) -> Array | None:
        return x if isinstance(x, self.xp.ndarray) else None

    def view_as_real(self, x: Array) -> Array:
        real = x.real.dtype
        return self.xp.ndarray((*x.shape, 2), real, memptr=x.data, strides=(*x.strides, real.itemsize))

    def bounds(self, x: Array) -> tuple[int, int]:
        # No two devices have an address in common, so addresses of several devices can be compared.
        return np.lib.array_utils.byte_bounds(_stand_in(x))

    def share(self, a: Array, b: Array) -> bool:
        return have_in_common(_stand_in(a), _stand_in(b))

    def like(self, theta: Array, dtype: str, values: Any | None) -> Array:
        with theta.device:
            new = self.xp.zeros_like(theta, dtype=dtype, order="K")
            if values is not None:
                new[...] = self.xp.asarray(values)
        return new

    def to_numpy(self, x: Array) -> Any:
        return self.xp.asnumpy(x)


def _stand_in(x: Array) -> Any:
    """A NumPy array with x's address, shape and strides. It is asked for its bounds and never read:
    `cupy.shares_memory` would compute on the device and wait for it.
    """
    interface = {
        "version": 3,
        "data": (x.data.ptr, True),
        "shape": x.shape,
        "strides": x.strides,
        "typestr": f"|V{x.itemsize}",
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface))
