"""What a backend says about its arrays: which it accepts, where they lie in memory, and how to make new ones."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

from setadam_core.layers import COMPUTE_DTYPE, Array


class Memory(ABC):
    """The arrays of one library. `setadam_core.inplace` touches arrays through these methods alone."""

    dtypes: Collection[str] = tuple(COMPUTE_DTYPE)  # that a parameter may have
    block: int = 1 << 62  # coordinates to compute on at a time, if temporaries of more would not fit in a cache

    def real(self, x: Array) -> Array:
        """The array, or for a complex one its real view."""
        return self.view_as_real(x) if x.dtype.kind == "c" else x

    def check_aligned(self, what: str, name: str, x: Array) -> None:  # noqa: B027  # most backends accept any
        """Raise ValueError, naming the array, if the backend cannot compute at its address."""

    @abstractmethod
    def as_leaf(self, x: Any) -> Array | None:
        """The array that x is, or None if x is not an array of this backend."""

    @abstractmethod
    def view_as_real(self, x: Array) -> Array:
        """A complex array of shape s as a real one of shape s + (2,) in the same memory."""

    @abstractmethod
    def bounds(self, x: Array) -> tuple[int, int]:
        """The address of the first byte, and the address after the last byte."""

    @abstractmethod
    def share(self, a: Array, b: Array) -> bool:
        """True if two arrays whose bounds overlap have an element in common, or if that cannot be told."""

    @abstractmethod
    def like(self, theta: Array, dtype: str, values: Any | None) -> Array:
        """A new array with theta's shape, device and order of axes, without gaps. It holds the values of a NumPy
        array, or zeros.
        """

    @abstractmethod
    def to_numpy(self, x: Array) -> Any:
        """The same bits as a NumPy array."""
