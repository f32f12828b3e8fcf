"""Which arrays are taken: those of one namespace that compute as its own do, whatever their class is called."""

from collections.abc import Mapping
from functools import lru_cache
from inspect import getattr_static
from typing import Any

from array_api_compat import array_namespace

Array = Any
Namespace = Any


def namespace(arrays: Mapping[str, Array]) -> Namespace:
    """The namespace that all arrays, by name, are plain arrays of; TypeError if there is none."""
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
    """Raise TypeError for a subclass with arithmetic of its own: masks, matrices and units change what a formula
    means, γ among others, and mostly without an error. A subclass that only adds to its base is plain.
    """
    kind: Any = type(getattr(x, "_meta", x))  # dask's arrays are of its chunks' kind
    if not _is_plain(kind):
        raise TypeError(f"{name} must be a plain array, got {kind.__name__}, which has arithmetic of its own")


# Classes that users derive others from, and where those would compute in another way. torch's own hook,
# __torch_function__, is none of these: most classes that have it carry a name, or another layout of the same values.
_BASES = {("numpy", "ndarray"), ("torch", "Tensor"), ("cupy", "ndarray")}
_OPERATORS = ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "neg", "eq")
_HOOKS = ("array_ufunc", "array_function")
_ARITHMETIC = (*(f"__{name}__" for name in (*_HOOKS, *_OPERATORS)), "sum", "min", "max")
_MASKED = ("torch.masked.maskedtensor.core", "MaskedTensor")  # known by its name alone


@lru_cache
def _is_plain(kind: type) -> bool:
    names = [(x.__module__, x.__name__) for x in kind.__mro__]
    base = next((x for x, name in zip(kind.__mro__, names, strict=True) if name in _BASES), kind)
    own = (getattr_static(kind, name, None) is not getattr_static(base, name, None) for name in _ARITHMETIC)
    return _MASKED not in names and not any(own)
