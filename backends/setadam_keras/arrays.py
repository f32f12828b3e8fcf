"""What the specification's functions need of the Array API, over `keras.ops`, whose names and arguments differ a bit.

TensorFlow's tensors have no namespace of the Array API, which would otherwise do for Keras's torch and jax backends.
"""

from types import SimpleNamespace
from typing import Any

from keras import ops


def _astype(x: Any, dtype: str, copy: bool = True) -> Any:
    return ops.cast(x, dtype)  # of the same dtype: x itself


def _sum(x: Any, axis: tuple[int, ...], keepdims: bool, dtype: Any) -> Any:
    return ops.sum(x, axis=axis, keepdims=keepdims)  # of floating-point numbers: in their own dtype


def _full(shape: tuple[int, ...], value: float, dtype: Any, device: Any) -> Any:
    return ops.full(shape, value, dtype=dtype)  # on Keras's device, where its variables are, too


def _minimum(x: Any, y: Any) -> Any:
    """`ops.minimum` of two float64 arrays is float32 on Keras's torch backend (3.15). NaN where x is."""
    return ops.where(x > y, y, x)


xp = SimpleNamespace(
    astype=_astype,
    expm1=ops.expm1,
    full=_full,
    log=ops.log,
    max=ops.max,
    min=ops.min,
    minimum=_minimum,
    ones_like=ops.ones_like,
    sqrt=ops.sqrt,
    sum=_sum,
    where=ops.where,
)
