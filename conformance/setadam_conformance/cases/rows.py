"""A row of the table of dimensions as a case, and a case as a row. A row and a seed give the same case every time."""

import math
from typing import Any

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase, dtype_of, real_view
from setadam_conformance.cases.dimensions import LAST_T, Row, first_class, hyperparameter_classes
from setadam_conformance.cases.formats import FORMATS, compute_format
from setadam_conformance.protocol import NumPyArray

_SPECIAL = {"NaN": math.nan, "Inf": math.inf, "-Inf": -math.inf}
_FIELDS = {"g": "grad", "θ": "param", "m": "m", "v": "v"}
# Layers along axes need not be summed pairwise. Up to this size, both classes of reduction have the same bound.
_STRIDED = 48


def case_of(row: Row, seed: int) -> Case:
    """A case of these classes. The layer at row["place"] has them; the other layers of the call are plain."""
    rng = np.random.default_rng(seed)
    dtype, t = row["dtype"], _steps(row["t"], rng)
    hp = _hyperparameters(row, rng)
    shape, axes = _shape(row, rng)
    layer = _special(row, _ordered(row, _layer(row, shape, axes, t, rng)), rng)
    low, high = {"1": (1, 1), "2 or 3": (2, 3), "4 to 9": (4, 9), "10 or more": (10, 13)}[row["layers"]]
    count = int(rng.integers(low, high + 1))
    plain = {**row, "numbers": "real", "magnitude": "near 1", "values": "normal", "least": "anywhere"}
    others = [_layer(plain, (int(rng.integers(2, 9)),), None, t, rng) for _ in range(count - 1)]
    layers = [layer, *others] if row["place"] == "first" else [*others, layer]
    return Case(dtype, tuple(layers), t, hp, {"classes": dict(row), "seed": seed})


def judged_layer(row: Row, case: Case) -> LayerCase:
    """The layer of the case that has the row's classes."""
    return case.layers[0] if row["place"] == "first" else case.layers[-1]


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two positive ones, uniform in its logarithm."""
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def _hyperparameters(row: Row, rng: np.random.Generator) -> dict[str, Any]:
    near_1 = 1 - _between(rng, 1e-7, 0.05)
    tiny = 1e-30 if compute_format(row["dtype"]).name == "float32" else 1e-200
    lr = {
        "1e-3": 1e-3,
        "0": 0.0,
        "below 1": _between(rng, 1e-5, 0.9),
        "above 1": _between(rng, 1.5, 100),
        "tiny": _between(rng, 1e-14, 1e-10),
    }[row["lr"]]
    decay = {
        "none": 0.0,
        "coupled": _between(rng, 1e-4, 0.5),
        "coupled, above ½": _between(rng, 0.6, 30),
        "decoupled": min(0.5, 0.9 / lr if lr else 1) * float(rng.uniform(0.1, 1)),
        "decoupled, 1-ηλ < 0": float(rng.uniform(1.1, 4)) / lr if lr else 0.0,
    }[row["decay"]]
    low = {"0": 0.0, "below ½": float(rng.uniform(0.01, 0.5)), "near 1": near_1}
    return {
        "lr": lr,
        "beta1": low.get(row["beta1"], 0.9),
        "beta2": {**low, "near 1": 1 - _between(rng, 1e-7, 0.01)}.get(row["beta2"], 0.999),
        "eps": {
            "1e-8": 1e-8,
            "tiny": _between(rng, tiny, 1e-20),
            "between": _between(rng, 1e-16, 1e-5),
            "large": _between(rng, 0.01, 10),
        }[row["eps"]],
        "tau": {
            "0.5": 0.5,
            "0": 0.0,
            "between": float(rng.uniform(0.01, 0.9)),
            "near 1": float(rng.uniform(0.95, 0.999)),
        }[row["tau"]],
        "weight_decay": decay,
        "decoupled_weight_decay": row["decay"].startswith("decoupled"),
        "maximize": row["direction"] == "ascend",
        "cos_power": {
            "2": 2.0,
            "0": 0.0,
            "below 2": float(rng.uniform(0.1, 1.9)),
            "4": 4.0,
            "above 2": float(rng.uniform(2.1, 7)),
        }[row["cos_power"]],
        "eps_inside_sqrt": row["eps_is"] == "inside",
    }  # fmt: skip


def _steps(name: str, rng: np.random.Generator) -> int:
    low, high = {
        "0": (0, 0),
        "1 to 9": (1, 9),
        "10 to 10⁵": (10, 10**5),
        "beyond 2²⁴": (2**24, 2**30),
        "about 2³¹": (2**31 - 3, 2**31 + 2),
    }[name]
    return int(rng.integers(low, high + 1))


def _shape(row: Row, rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """A shape and layer_axes of these classes."""

    def some(low: int, high: int, count: int) -> list[int]:
        return [int(n) for n in rng.integers(low, high + 1, count)]

    kind, across = row["shape"], row["axes"] in ("first", "last")
    if kind in ("hundreds", "thousands", "a block and a tail"):
        if kind == "a block and a tail":
            n = 2 ** int(rng.integers(6, 17)) + int(rng.choice([-1, 1, 3, 7, 9]))
        else:
            n = some(*((66, 1023) if kind == "hundreds" else (1024, 8191)), 1)[0]
        if row["axes"] == "last":
            shape: tuple[int, ...] = (max(n // _STRIDED, 2), _STRIDED)
        elif row["axes"] == "first":
            shape = (_STRIDED, max(n // _STRIDED, 2))
        else:
            shape = (n,)
    elif kind == "vector":
        shape = tuple(some(2, 64, 1))
    elif kind in ("()", "(1,)"):
        shape = () if kind == "()" else (1,)
    elif kind == "matrix":
        shape = tuple(some(2, 8, 2))
    elif kind == "3 or 4 axes":
        shape = tuple(some(2, 3, int(rng.integers(3, 5))))
    elif kind == "5 or more axes":
        shape = tuple(some(1, 2, int(rng.integers(5, 8))))
        shape = (2, *shape[1:-1], 3)
    elif kind == "axes of length 1":
        shape = (1, *some(2, 7, 1), 1, *some(2, 7, 1), 1)
    elif row["axes"] in ("None", "()", "negative", "all"):
        shape = [(0,), (0, 3), (3, 0, 2)][int(rng.integers(3))]
    else:
        shape = [(0, 3, 2), (3, 0, 2), (2, 3, 0)][int(rng.integers(3))]
    n = len(shape)
    axes: dict[str, tuple[int, ...] | None] = {
        "None": None,
        "all": tuple(range(n)),
        "first": (0,),
        "last": tuple(range(1, n)) if kind not in ("hundreds", "thousands", "a block and a tail") else (n - 1,),
        "apart": (0, n - 1),
        "()": (),
        "negative": (-1,) if n < 3 or across else (-1, -n),
    }
    return shape, axes[row["axes"]]


def _layer(
    row: Row, shape: tuple[int, ...], axes: tuple[int, ...] | None, t: int, rng: np.random.Generator
) -> LayerCase:
    is_complex = row["numbers"] == "complex"
    real_shape = (*shape, 2) if is_complex else shape
    storage, compute = dtype_of(row["dtype"]), compute_format(row["dtype"]).numpy
    scale, spread = _scale(row, rng), 2.0 if row["magnitude"] == "wide" else 0.3
    values = row["values"]

    def sample() -> NumPyArray:
        x = rng.normal(size=real_shape) * 10 ** (spread * rng.normal(size=real_shape))
        x = np.where(np.abs(x) < 1e-6, 1e-6, x)
        if values == "constant":
            x = np.full(real_shape, rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1))
        if values == "some zeros":
            x = np.where(rng.random(real_shape) < 0.4, 0.0, x)
            x.flat[int(rng.integers(x.size))] = 0.0
        if values == "one dominant":
            x.flat[int(rng.integers(x.size))] = 1e3
        return np.asarray(x)

    g = sample() * (values not in ("g = 0", "g, m, v = 0"))
    past = _between(rng, 1 / 30, 30)
    m, root = (sample() * past * bool(t and values != "g, m, v = 0") for _ in "mv")
    if row["least"] != "anywhere":
        g, root = _least_at(row["least"], g, root)
    theta = rng.normal(size=real_shape) * {"near 1": 1.0, "zero": 0.0, "large": 300.0}[row["theta"]]
    with np.errstate(all="ignore"):
        arrays = [
            _round(theta, storage), _round(g * scale, storage), _round(m * scale, compute),
            _round((root * scale) ** 2, compute),
        ]  # fmt: skip
    if is_complex:
        twin = dtype_of(row["dtype"], is_complex=True)
        arrays[:2] = [x.view(twin).reshape(shape) for x in arrays[:2]]
    theta, g, m, v = arrays
    return LayerCase(theta, g, m, v, axes)


def _scale(row: Row, rng: np.random.Generator) -> float:
    storage, compute = FORMATS[row["dtype"]], compute_format(row["dtype"])
    smallest = max(math.sqrt(compute.smallest_subnormal), storage.smallest_subnormal)
    largest = min(math.sqrt(compute.largest), storage.largest)
    if row["magnitude"] == "small":
        return _between(rng, smallest, smallest * 1e4)
    if row["magnitude"] == "large":
        return _between(rng, largest * 1e-9, largest * 1e-6) if largest > 1e10 else largest / 1e3
    return _between(rng, 1e-3, 3)


def _round(x: NumPyArray, dtype: np.dtype[Any]) -> NumPyArray:
    """float64 numbers rounded to a format, and clipped to its largest number."""
    limit = FORMATS[str(dtype)].largest
    return np.asarray(np.clip(x, -limit, limit).astype(dtype))


def _least_at(where: str, g: NumPyArray, root: NumPyArray) -> tuple[NumPyArray, NumPyArray]:
    """Return g and √v with the smallest of both at the first or last coordinate, or shared by several."""
    g, root = g.copy(), root.copy()
    size = min(float(np.min(np.abs(x))) for x in (g, root))
    at = {"first": [0], "last": [-1], "tied": range(0, g.size, 2)}[where]
    for i in at:
        g.flat[i], root.flat[i] = size / 2 * np.sign(g.flat[i] or 1), size / 2
    return g, root


def _ordered(row: Row, layer: LayerCase) -> LayerCase:
    """The layer with its arrays in this order in memory."""
    order, only_g = row["order"].removeprefix("g "), row["order"].startswith("g ")
    if order == "C":
        return layer

    n = layer.param.ndim  # the two parts of a complex moment stay next to each other

    def arranged(x: NumPyArray) -> NumPyArray:
        if order == "Fortran":
            turned = (*reversed(range(n)), *range(n, x.ndim))
            return np.transpose(np.ascontiguousarray(np.transpose(x, turned)), turned)
        every_other = (*[slice(None)] * (n - 1), slice(None, None, 2))
        wide = np.zeros((*x.shape[: n - 1], 2 * x.shape[n - 1], *x.shape[n:]), x.dtype)
        wide[every_other] = x
        return np.asarray(wide[every_other])

    param, m, v = (x if only_g else arranged(x) for x in (layer.param, layer.m, layer.v))
    return LayerCase(param, arranged(layer.grad), m, v, layer.axes)


def _special(row: Row, layer: LayerCase, rng: np.random.Generator) -> LayerCase:
    """The layer with one coordinate that is not finite, if the row asks for it. The arrays are changed in place."""
    if row["special"] == "none":
        return layer
    field, value = row["special"].split()
    x = getattr(layer, _FIELDS[field])
    where = np.unravel_index(int(rng.integers(x.size)), x.shape)
    if x.dtype.kind == "c":
        x[where] = complex(_SPECIAL[value], x[where].imag)
    else:
        x[where] = _SPECIAL[value]
    return layer


def classes_of(case: Case) -> dict[str, str]:
    """The classes of a case, read from its arrays and numbers: what `case_of` was asked for.

    Magnitudes and values are not read back: they are what the case says of itself.
    """
    said: dict[str, str] = case.extra["classes"]
    layer, hp, t = judged_layer(said, case), case.hp, case.t
    n, shape = len(case.layers), layer.param.shape
    found = {
        **{name: said[name] for name in ("magnitude", "values", "least", "theta", "place")},
        "dtype": case.dtype,
        "numbers": "complex" if layer.is_complex else "real",
        **hyperparameter_classes(hp),
        "t": first_class(t, *LAST_T.items()),
        "special": _special_of(layer),
        "shape": _shape_class(shape, layer.param.size, said["shape"], said["axes"]),
        "axes": _axes_class(layer.axes, len(shape)),
        "order": _order_class(layer),
        "layers": first_class(n, ("1", 1), ("2 or 3", 3), ("4 to 9", 9), ("10 or more", math.inf)),
    }  # fmt: skip
    return {name: found[name] for name in said}


def _special_of(layer: LayerCase) -> str:
    for field, name in _FIELDS.items():
        x = real_view(getattr(layer, name)).astype(np.float64)
        for value, is_it in (("NaN", np.isnan(x)), ("Inf", np.isposinf(x)), ("-Inf", np.isneginf(x))):
            if is_it.any():
                return f"{field} {value}"
    return "none"


def _shape_class(shape: tuple[int, ...], size: int, said: str, axes: str) -> str:
    if size == 0:
        return "empty"
    if shape in ((), (1,)):
        return "()" if shape == () else "(1,)"
    if axes in ("first", "last") and len(shape) == 2 and _STRIDED in shape:
        return said  # a row of blocks
    if size > 62 and len(shape) == 1:
        if said != "vector" and any(size - tail == 1 << (size - tail).bit_length() - 1 for tail in (-1, 1, 3, 7, 9)):
            return "a block and a tail"
        return "vector" if size <= 64 else "hundreds" if size < 1024 else "thousands"
    if len(shape) > 4 and shape[0] == shape[2] == shape[-1] == 1:
        return "axes of length 1"
    return {1: "vector", 2: "matrix", 3: "3 or 4 axes", 4: "3 or 4 axes"}.get(len(shape), "5 or more axes")


def _axes_class(axes: tuple[int, ...] | None, ndim: int) -> str:
    if axes is None or axes == ():
        return "None" if axes is None else "()"
    if any(axis < 0 for axis in axes):
        return "negative"
    if axes == tuple(range(ndim)):
        return "all"
    if axes == (0,):
        return "first"
    return "last" if axes == tuple(range(axes[0], ndim)) and len(axes) > 0 and axes[0] > 0 else "apart"


def _order_class(layer: LayerCase) -> str:
    def of(x: NumPyArray) -> str:
        if x.flags.c_contiguous:
            return "C"
        return "Fortran" if x.flags.f_contiguous else "gaps"

    grad, param = of(layer.grad), of(layer.param)
    return grad if grad == param else f"g {grad}"
