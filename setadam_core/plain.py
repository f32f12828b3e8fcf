"""Which arrays are accepted: those of one namespace whose arithmetic is the namespace's own."""

from collections.abc import Mapping
from functools import lru_cache
from inspect import getattr_static
from typing import Any

from array_api_compat import array_namespace

Array = Any
Namespace = Any


def namespace(arrays: Mapping[str, Array]) -> Namespace:
    """The one namespace of all arrays, given by name; TypeError if they have none, or if one is not a plain array."""
    try:
        xp = array_namespace(*arrays.values())
    except TypeError as error:
        if len(arrays) == 1:
            ((name, x),) = arrays.items()
            raise TypeError(f"{name} must be an array, got {type(x).__name__}") from error
        kinds = ", ".join(f"{name}: {type(x).__name__}" for name, x in arrays.items())
        raise TypeError(f"param, grad and state must be arrays of one namespace, got {kinds}") from error
    for name, x in arrays.items():
        check_plain(name, x)
    return xp


def check_plain(name: str, x: Array) -> None:
    """Raise TypeError for a subclass with its own arithmetic. Masks, matrices and units change the meaning of formulas,
    that of γ among them, and mostly without an error. A subclass that leaves its base's arithmetic alone is plain.
    """
    kind: Any = type(getattr(x, "_meta", x))  # a dask array is what its chunks are
    if not _is_plain(kind):
        raise TypeError(f"{name} must be a plain array, got {kind.__name__}, which has its own arithmetic")


# The classes that users derive from, and the methods by which a subclass would change the arithmetic. torch's hook,
# __torch_function__, is not among them: most classes that define it add a name, or another layout of the same values.
_BASES = {("numpy", "ndarray"), ("torch", "Tensor"), ("cupy", "ndarray")}
_OPERATORS = ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "neg", "eq")
_HOOKS = ("array_ufunc", "array_function")
_ARITHMETIC = (*(f"__{name}__" for name in (*_HOOKS, *_OPERATORS)), "sum", "min", "max")
_MASKED = ("torch.masked.maskedtensor.core", "MaskedTensor")  # recognized by its name


@lru_cache
def _is_plain(kind: type) -> bool:
    names = [(x.__module__, x.__name__) for x in kind.__mro__]
    base = next((x for x, name in zip(kind.__mro__, names, strict=True) if name in _BASES), kind)
    own = (getattr_static(kind, name, None) is not getattr_static(base, name, None) for name in _ARITHMETIC)
    return _MASKED not in names and not any(own)
