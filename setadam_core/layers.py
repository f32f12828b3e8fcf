"""Layers: the checks before a step, the dtypes of the arithmetic, and the reductions.

γ and the minimum are taken over a layer. A layer is by default a whole parameter array; with ``layer_axes``, it is
each slice along the other axes.
"""

import math
import sys
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device

from setadam_core.hyperparameters import Hyperparameters, Scalar, is_array_scalar
from setadam_core.plain import namespace
from setadam_core.rounding import Rounding

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
    """The dtype's name without its namespace: ``float32`` for ``torch.float32``."""
    return str(x.dtype).rpartition(".")[2]


def compute_dtype_name(param: Array) -> str:
    """The name of the dtype of the moments; TypeError if the parameter is not floating-point."""
    name = dtype_name(param)
    if name not in COMPUTE_DTYPE:
        raise TypeError(f"param must have one of the dtypes {', '.join(COMPUTE_DTYPE)}, got {name}")
    if name == "bfloat16" and _NUMPY_IS_OLD and isinstance(param, np.ndarray):
        raise RuntimeError(
            f"bfloat16 needs NumPy 2.1.2 or later, got {np.__version__}, in which it crashes the process"
        )
    return COMPUTE_DTYPE[name]


# Before 2.1.2, each promotion of bfloat16 with a Python number removes one reference too many from a dtype of
# NumPy's own. In the end that dtype is freed, and the process crashes (numpy/numpy#27478).
_NUMPY_IS_OLD = np.lib.NumpyVersion(np.__version__) < "2.1.2"


def fields(state: Any) -> tuple[Array, Array, Any]:
    """The m, v and t of a State; TypeError if it has none."""
    try:
        return state.m, state.v, state.t
    except AttributeError:
        size = f" of {len(state)}" if isinstance(state, tuple | list) else ""
        kind = f"{type(state).__name__}{size}"
        raise TypeError(f"state must have m, v and t, as setadam_core.init returns it, got {kind}") from None


def as_array(x: Array) -> Array:
    """The array itself, or a 0-d array for a NumPy scalar, which NumPy's 0-d arithmetic returns."""
    return np.asarray(x) if isinstance(x, np.generic) else x


class Layer(NamedTuple):
    """How to compute on a parameter: namespace, compute dtype, and which axes make one layer."""

    xp: Namespace
    dtype: Any  # a real dtype of xp
    param_dtype: Any  # the dtype of xp that the new parameter is rounded to, once
    is_complex: bool
    axes: tuple[int, ...]  # of the real view
    size: int  # d, coordinates in one layer
    across: Any = None  # if a layer is spread over processes: sum, min, max and number of parts over all of them

    def real(self, x: Array) -> Array:
        """X in the compute dtype; a complex x of shape s becomes real of shape s + (2,)."""
        if not self.is_complex:
            return self.xp.astype(x, self.dtype, copy=False)
        return self.xp.stack([self.xp.real(x), self.xp.imag(x)], axis=-1)

    def unreal(self, x: Array, rounding: Rounding | None = None, t: Any = None) -> Array:
        """The inverse of `real`, rounding to the parameter's dtype: to nearest, or in step t as `rounding` says."""
        if rounding is not None:
            x = rounding.round(x, self.param_dtype, t)
        if not self.is_complex:
            return self.xp.astype(x, self.param_dtype, copy=False)
        pair = self.xp.astype(x, self.param_dtype)
        return pair[..., 0] + 1j * pair[..., 1]

    def coefficient(self, x: Scalar) -> Scalar:
        """A coefficient that will be combined with arrays, in a form that does not widen them. A 0-d array is rounded
        here. A number becomes a Python float (NumPy's scalars would widen), which the first operation rounds.
        """
        return self.xp.astype(x, self.dtype, copy=False) if is_array_scalar(x) else float(x)

    def sum(self, x: Array) -> Array:
        """Σ over each layer, keeping the axes."""
        if self.axes:  # otherwise every coordinate is a layer; namespaces disagree on axis=()
            x = self.xp.sum(x, axis=self.axes, keepdims=True, dtype=x.dtype)
        return x if self.across is None else self.across.sum(x)

    def min(self, x: Array) -> Array:
        """The smallest coordinate of each layer, keeping the axes; +∞ for a layer without coordinates."""
        least = self._extremum(self.xp.min, x, math.inf)
        return least if self.across is None else self.across.min(least)

    def max(self, x: Array) -> Array:
        """The largest coordinate of each layer, keeping the axes; -∞ for a layer without coordinates."""
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
    """Check the arguments of a step against each other, and return the layer.

    Raises
    ------
    TypeError : arrays of different namespaces, or of a subclass with its own arithmetic; a wrong dtype; hp or t of
        a wrong type.
    ValueError : wrong shapes or devices, a negative t, an hp that the dtype cannot represent.
    """
    if not isinstance(hp, Hyperparameters):
        raise TypeError(f"hp must be a Hyperparameters, got {type(hp).__name__}")
    arrays = {"param": param, "grad": grad, "state.m": m, "state.v": v}
    xp = namespace(arrays)
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
    axes: list[int] = []
    listed = isinstance(layer_axes, (tuple, list))  # torch.compile of torch 2.7 cannot trace `tuple | list`
    if listed and all(type(axis) is int for axis in layer_axes):
        axes = [axis for axis in range(ndim) if any(x in (axis, axis - ndim) for x in layer_axes)]
    if not listed or len(axes) != len(layer_axes):
        # Formatted only here: under torch.compile the numbers may be symbols, which cannot be formatted.
        raise ValueError(f"layer_axes must be None or distinct axes of an array with {ndim} axes, got {layer_axes!r}")
    return tuple(axes)


def _devices(x: Array) -> Any:
    """The devices of x, as a set, since one array can be spread over several; empty if x is traced."""
    jax = sys.modules.get("jax")
    # JAX searches the whole program so far before it says that a traced array has no device: 20 s for 200 layers.
    if (jax is not None and isinstance(x, jax.core.Tracer)) or device(x) is None:
        return set()
    return x.devices() if hasattr(x, "devices") else {device(x)}
