"""What is known of a layer before anything is computed: its checks, dtypes, and reductions.

A layer is what γ and the minimum are taken over: by default a whole parameter array; with
``layer_axes``, each slice along the other axes.
"""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from setadam_core.hyperparameters import Hyperparameters, Scalar, is_array_scalar

Array = Any  # an array of any namespace of the Array API; mypy has no type for it
Namespace = Any

# The real dtype in which the step of a parameter is computed and its moments are kept.
COMPUTE_DTYPE = {
    "float16": "float32",
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
}


def dtype_name(x: Array) -> str:
    """The dtype's bare name, which all namespaces share: ``torch.float32`` is ``float32``."""
    return str(x.dtype).rpartition(".")[2]


def compute_dtype_name(param: Array) -> str:
    """The name of the dtype of the moments; TypeError for what is not floating-point."""
    name = dtype_name(param)
    if name not in COMPUTE_DTYPE:
        raise TypeError(f"param must have one of the dtypes {', '.join(COMPUTE_DTYPE)}, got {name}")
    return COMPUTE_DTYPE[name]


def as_array(x: Array) -> Array:
    """The array itself; a NumPy scalar, which is what NumPy's 0-d arithmetic returns, as a 0-d array."""
    return np.asarray(x) if isinstance(x, np.generic) else x


class Layer(NamedTuple):
    """How to compute on a parameter: namespace, compute dtype, and which axes make one layer."""

    xp: Namespace
    dtype: Any  # a real dtype of xp
    param_dtype: Any  # the dtype of xp that the new parameter is rounded to, once
    is_complex: bool
    axes: tuple[int, ...]  # of the real view
    size: int  # d, coordinates in one layer
    across: Any = None  # where one layer is spread over processes: its sum, min, max and parts over all of them

    def real(self, x: Array) -> Array:
        """X in the compute dtype; a complex x of shape s becomes real of shape s + (2,)."""
        if not self.is_complex:
            return self.xp.astype(x, self.dtype, copy=False)
        return self.xp.stack([self.xp.real(x), self.xp.imag(x)], axis=-1)

    def unreal(self, x: Array) -> Array:
        """The inverse of `real`, rounding to the parameter's dtype."""
        if not self.is_complex:
            return self.xp.astype(x, self.param_dtype, copy=False)
        pair = self.xp.astype(x, self.param_dtype)
        return pair[..., 0] + 1j * pair[..., 1]

    def coefficient(self, x: Scalar) -> Scalar:
        """A coefficient on its way to arrays: a 0-d array rounded here, so that it does not widen what
        it meets; a number as a Python float (NumPy's scalars would widen), rounded by the first operation.
        """
        return self.xp.astype(x, self.dtype, copy=False) if is_array_scalar(x) else float(x)

    def sum(self, x: Array) -> Array:
        """Σ over each layer, keeping the axes."""
        if self.axes:  # else every coordinate is a layer; namespaces disagree on axis=()
            x = self.xp.sum(x, axis=self.axes, keepdims=True, dtype=x.dtype)
        return x if self.across is None else self.across.sum(x)

    def min(self, x: Array) -> Array:
        """The smallest coordinate of each layer, keeping the axes; +∞ for a layer without any."""
        least = self._extremum(self.xp.min, x, math.inf)
        return least if self.across is None else self.across.min(least)

    def max(self, x: Array) -> Array:
        """The largest coordinate of each layer, keeping the axes; -∞ for a layer without any."""
        most = self._extremum(self.xp.max, x, -math.inf)
        return most if self.across is None else self.across.max(most)

    def _extremum(self, reduce: Any, x: Array, of_nothing: float) -> Array:
        if not self.axes:
            return x
        if self.size == 0:
            shape = tuple(1 if axis in self.axes else n for axis, n in enumerate(x.shape))
            return self.xp.full(shape, of_nothing, dtype=x.dtype, device=device(x))
        return reduce(x, axis=self.axes, keepdims=True)


def check_layer(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    t: Any,
    hp: Hyperparameters,
    layer_axes: Sequence[int] | None,
    across: Any = None,
) -> Layer:
    """Check the arguments of a step against each other, before anything is computed.

    Raises
    ------
    TypeError : arrays of different namespaces, a dtype that does not fit, or hp or t of a wrong type.
    ValueError : shapes or devices that do not fit, a negative t, an hp that the dtype cannot hold.
    """
    if not isinstance(hp, Hyperparameters):
        raise TypeError(f"hp must be a Hyperparameters, got {type(hp).__name__}")
    arrays = {"param": param, "grad": grad, "state.m": m, "state.v": v}
    try:
        xp = array_namespace(*arrays.values())
    except TypeError as error:
        kinds = ", ".join(f"{name}: {type(x).__name__}" for name, x in arrays.items())
        raise TypeError(f"param, grad and state must be arrays of one namespace, got {kinds}") from error

    compute, is_complex = compute_dtype_name(param), dtype_name(param).startswith("complex")
    real_shape = (*param.shape, 2) if is_complex else tuple(param.shape)
    expected = {"grad": (dtype_name(param), tuple(param.shape))}
    expected |= dict.fromkeys(("state.m", "state.v"), (compute, real_shape))
    for name, (dtype, shape) in expected.items():
        x = arrays[name]
        if tuple(x.shape) != shape:
            raise ValueError(f"{name} must have shape {shape} for this param, got {tuple(x.shape)}")
        if dtype_name(x) != dtype:
            raise TypeError(f"{name} must have dtype {dtype} for this param, got {dtype_name(x)}")
        if _devices(x) and _devices(param) and _devices(x) != _devices(param):
            raise ValueError(f"{name} must be on param's device, {device(param)}, got {device(x)}")

    if not is_array_scalar(t) and (isinstance(t, bool) or not isinstance(t, Integral)):
        raise TypeError(f"state.t must be an int or a 0-d array, got {t!r}")
    if isinstance(t, Integral) and t < 0:
        raise ValueError(f"state.t must be ≥ 0, got {t}")

    dtype = getattr(xp, compute)
    info = xp.finfo(dtype)
    hp.check_representable(compute, float(info.smallest_normal), float(info.max))
    axes = check_layer_axes(layer_axes, len(param.shape))
    if is_complex:
        axes = (*axes, len(param.shape))
    size = math.prod(real_shape[axis] for axis in axes) * (1 if across is None else across.parts)
    return Layer(xp, dtype, param.dtype, is_complex, axes, size, across)


def check_layer_axes(layer_axes: Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """The axes that make one layer, non-negative and sorted; None means all of them."""
    if layer_axes is None:
        return tuple(range(ndim))
    wrong = ValueError(f"layer_axes must be None or distinct axes of an array with {ndim} axes, got {layer_axes!r}")
    if not isinstance(layer_axes, tuple | list) or not all(type(axis) is int for axis in layer_axes):
        raise wrong
    axes = sorted(axis + ndim if axis < 0 else axis for axis in layer_axes)
    if len(set(axes)) < len(axes) or any(not 0 <= axis < ndim for axis in axes):
        raise wrong
    return tuple(axes)


def _devices(x: Array) -> Any:
    """Where x lies, as a set, since one array can be spread over devices; empty if it is traced."""
    if device(x) is None:
        return set()
    return x.devices() if hasattr(x, "devices") else {device(x)}
