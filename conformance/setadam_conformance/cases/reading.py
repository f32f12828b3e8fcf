"""The classes of the table of dimensions that a call has, read from its arrays and numbers.

What a class of an array means is defined here; `rows` makes arrays that have it. Nothing that a case says of itself is
used, so what a run has reached is measured, and a seeded fault can tell in which circumstances it is called.
"""

import math

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase, real_view
from setadam_conformance.cases.dimensions import LAST_T, TABLE, first_class, hyperparameter_classes
from setadam_conformance.protocol import NumPyArray

FIELDS = {"g": "grad", "θ": "param", "m": "m", "v": "v"}
# Layers along axes need not be summed pairwise. Up to this size, both classes of reduction have the same bound.
STRIDED = 48

_SMALL, _LARGE = 1.3e-5, 5.0  # the median coordinate of g
_WIDE = 3e4  # the largest nonzero coordinate of g by the smallest
_DOMINANT = 100  # the largest coordinate of g by the second largest
_LARGE_THETA = 30


def classes_in(case: Case) -> list[dict[str, str]]:
    """The classes that meet in a case: those of its first layer, and those of its last one if there are several."""
    return [classes_of(case, place) for place in (("first",) if len(case.layers) == 1 else ("first", "last"))]


def classes_of(case: Case, place: str) -> dict[str, str]:
    """The classes of the layer at a place, "first" or "last", and of the call."""
    layer = case.layers[0 if place == "first" else -1]
    g, m, root = (_sizes(x) for x in (layer.grad, layer.m, np.sqrt(np.abs(layer.v))))
    values = _values(layer.param.size, g, m, root)
    found = {
        "dtype": case.dtype,
        "numbers": "complex" if layer.is_complex else "real",
        **hyperparameter_classes(case.hp),
        "t": first_class(case.t, *LAST_T.items()),
        "theta": _theta(_sizes(layer.param)),
        "magnitude": _magnitude(g, m, root),
        "values": values,
        "least": _least(layer.param.size, values, g, root),
        "special": _special(layer),
        "shape": _shape(layer.param.shape, layer.axes),
        "axes": _axes(layer.axes, layer.param.ndim),
        "order": _order(layer),
        "layers": first_class(len(case.layers), ("1", 1), ("2 or 3", 3), ("4 to 9", 9), ("10 or more", math.inf)),
        "place": place,
    }
    return {name: found[name] for name in TABLE}


def has_tail(n: int, least: int) -> bool:
    """Whether n is a power of two, of `least` or more, and a tail of a few: what is left of a loop over blocks."""
    return any((size := n - tail) >= least and size & (size - 1) == 0 for tail in (-1, 1, 3, 7, 9))


def _sizes(x: NumPyArray) -> NumPyArray:
    """|x| as a flat float64 array of its real view; NaN where x is not finite."""
    flat = np.abs(real_view(x).astype(np.float64)).ravel()
    return np.where(np.isfinite(flat), flat, np.nan)


def _nonzero(x: NumPyArray) -> NumPyArray:
    return x[x > 0]  # not NaN either


def _theta(x: NumPyArray) -> str:
    finite = x[np.isfinite(x)]
    if not finite.size:
        return "near 1"
    return "zero" if not finite.any() else "large" if finite.max() > _LARGE_THETA else "near 1"


def _magnitude(g: NumPyArray, m: NumPyArray, root: NumPyArray) -> str:
    """That of g, or of m, or of √v: of the first in which a coordinate is neither zero nor special."""
    x = np.sort(next((y for y in map(_nonzero, (g, m, root)) if y.size), np.ones(1)))
    if x[-1] > _WIDE * x[0]:
        return "wide"
    return first_class(x[(len(x) - 1) // 2], ("small", _SMALL), ("near 1", _LARGE), ("large", math.inf))


def _values(size: int, g: NumPyArray, m: NumPyArray, root: NumPyArray) -> str:
    finite = np.sort(g[np.isfinite(g)])
    if finite.size and not finite.any():
        return "g = 0" if _nonzero(m).size or _nonzero(root).size else "g, m, v = 0"
    if size < 2 or finite.size < 2:
        return "normal"
    if finite[0] == 0:
        return "some zeros"
    if finite[0] == finite[-1]:
        return "constant"
    return "one dominant" if finite[-1] > _DOMINANT * finite[-2] else "normal"


def _least(size: int, values: str, g: NumPyArray, root: NumPyArray) -> str:
    """Where both g and v are smallest, if they are not zero, and not all equal or zero."""
    of = [x for x in (g, root) if _nonzero(x).size]
    if size < 2 or values in ("some zeros", "constant", "g, m, v = 0") or not of:
        return "anywhere"
    finite = np.isfinite(g) & np.isfinite(root)
    at = [np.flatnonzero(finite & (x == np.min(x, initial=np.inf, where=finite))) for x in of]
    if all(len(where) > 1 for where in at):
        return "tied"
    if all(where.tolist() == [0] for where in at):
        return "first"
    return "last" if all(where.tolist() == [len(g) - 1] for where in at) else "anywhere"


def _special(layer: LayerCase) -> str:
    for name, field in FIELDS.items():
        x = real_view(getattr(layer, field)).astype(np.float64)
        for value, is_it in (("NaN", np.isnan(x)), ("Inf", np.isposinf(x)), ("-Inf", np.isneginf(x))):
            if is_it.any():
                return f"{name} {value}"
    return "none"


def _shape(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> str:
    size = math.prod(shape)
    if size == 0:
        return "empty"
    if shape in ((), (1,)):
        return "()" if shape == () else "(1,)"
    if len(shape) == 1 and (size > 62 or has_tail(size, 64)):
        return "a block and a tail" if has_tail(size, 64) else "hundreds" if size < 1024 else "thousands"
    if len(shape) == 2 and axes in ((0,), (1,)) and shape[axes[0]] == STRIDED:
        rows = shape[1 - axes[0]]
        return "a block and a tail" if has_tail(rows, 16) else "hundreds" if size < 1024 else "thousands"
    if len(shape) > 4 and shape[0] == shape[2] == shape[-1] == 1:
        return "axes of length 1"
    return {1: "vector", 2: "matrix", 3: "3 or 4 axes", 4: "3 or 4 axes"}.get(len(shape), "5 or more axes")


def _axes(axes: tuple[int, ...] | None, ndim: int) -> str:
    if axes is None or len(axes) == 0:
        return "None" if axes is None else "()"
    if any(axis < 0 for axis in axes):
        return "negative"
    if axes == tuple(range(ndim)):
        return "all"
    if axes == (0,):
        return "first"
    return "last" if axes == tuple(range(axes[0], ndim)) and axes[0] > 0 else "apart"


def _order(layer: LayerCase) -> str:
    def of(x: NumPyArray) -> str:
        if x.flags.c_contiguous:
            return "C"
        return "Fortran" if x.flags.f_contiguous else "gaps"

    grad, param = of(layer.grad), of(layer.param)
    return grad if grad == param else f"g {grad}"
