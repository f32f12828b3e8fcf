"""A row of the table of dimensions as a case: the arrays have the classes that `reading` reads back. A row and a seed
give the same case every time.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase, dtype_of
from setadam_conformance.cases.dimensions import Row
from setadam_conformance.cases.formats import FORMATS, compute_format
from setadam_conformance.cases.reading import FIELDS, STRIDED, has_tail
from setadam_conformance.protocol import NumPyArray

_SPECIAL = {"NaN": math.nan, "Inf": math.inf, "-Inf": -math.inf}


def case_of(row: Row, seed: int) -> Case:
    """A case of these classes. The layer at row["place"] has them; the other layers of the call are plain."""
    rng = np.random.default_rng(seed)
    dtype, t = row["dtype"], _steps(row["t"], rng)
    hp = _hyperparameters(row, rng)
    shape, axes = _shape(row, rng)
    places = _Places.of(row, shape, rng)
    layer = _special(row, _ordered(row, _layer(row, shape, axes, t, places, rng)), places)
    low, high = {"1": (1, 1), "2 or 3": (2, 3), "4 to 9": (4, 9), "10 or more": (10, 13)}[row["layers"]]
    count = int(rng.integers(low, high + 1))
    plain = {**row, "numbers": "real", "magnitude": "near 1", "values": "normal", "least": "anywhere"}
    others = []
    for _ in range(count - 1):
        shape = (int(rng.integers(2, 9)),)
        others.append(_layer(plain, shape, None, t, _Places.of(plain, shape, rng), rng))
    layers = [layer, *others] if row["place"] == "first" else [*others, layer]
    return Case(dtype, tuple(layers), t, hp, {"classes": dict(row), "seed": seed})


class _Places(NamedTuple):
    """Coordinates of the flat real view with a part to play. least: those of the smallest g and v. special: the one
    that is not finite. free: the others, in a random order.
    """

    least: list[int]
    special: int
    free: list[int]

    @classmethod
    def of(cls, row: Row, shape: tuple[int, ...], rng: np.random.Generator) -> "_Places":
        size = math.prod(shape) * (2 if row["numbers"] == "complex" else 1)
        least = {"first": [0], "last": [size - 1], "tied": list(range(0, size, 2))}.get(row["least"], [])
        is_drawn = row["values"] in ("normal", "one dominant", "g = 0")
        if row["least"] == "anywhere" and is_drawn and size > 2:
            least = [int(rng.integers(1, size - 1))]
        others = rng.permutation(sorted(set(range(size)) - set(least))).tolist()
        return cls(least, others[0] if others else 0, others[1:] or others)


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

    kind, across, is_wide = row["shape"], row["axes"] in ("first", "last"), row["magnitude"] == "wide"
    if kind in ("hundreds", "thousands", "a block and a tail"):
        n = _many(kind, across, rng)
        shape: tuple[int, ...] = (n,)
        if across:
            shape = (n, STRIDED) if row["axes"] == "last" else (STRIDED, n)
    elif kind == "vector":
        shape = tuple(some(_fewest(row), 62, 1))
    elif kind in ("()", "(1,)"):
        shape = () if kind == "()" else (1,)
    elif kind == "matrix":
        shape = tuple(some(3 if is_wide else 2, 8, 2))
    elif kind == "3 or 4 axes":
        shape = tuple(some(2, 3, int(rng.integers(3, 5))))
    elif kind == "5 or more axes":
        shape = tuple(some(1, 2, int(rng.integers(5, 8))))
        shape = (2, *shape[1:-1], 3)
    elif kind == "axes of length 1":
        a, b = some(3 if is_wide else 2, 7, 2)
        shape = (1, a, 1, b, 1)
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


def _fewest(row: Row) -> int:
    """The length of the shortest vector in which the classes of the coordinates are told apart."""
    if row["magnitude"] == "wide":
        return 6
    if row["least"] == "tied" or row["special"] != "none" or row["values"] not in ("normal", "g = 0"):
        return 4
    return 3 if row["least"] == "anywhere" else 2


def _many(kind: str, across: bool, rng: np.random.Generator) -> int:
    """The number of coordinates, or of layers of STRIDED coordinates."""
    block = 16 if across else 64
    if kind == "a block and a tail":
        return int(block * 2 ** int(rng.integers(11 if not across else 7)) + rng.choice([-1, 1, 3, 7, 9]))
    low, high = {"hundreds": (66, 1023), "thousands": (1024, 8191)}[kind]
    if across:
        low, high = -(-low // STRIDED), high // STRIDED
    while has_tail(n := int(rng.integers(low, high + 1)), block):
        pass
    return n


def _layer(
    row: Row, shape: tuple[int, ...], axes: tuple[int, ...] | None, t: int, places: _Places, rng: np.random.Generator
) -> LayerCase:
    is_complex, values = row["numbers"] == "complex", row["values"]
    real_shape = (*shape, 2) if is_complex else shape
    storage, compute = dtype_of(row["dtype"]), compute_format(row["dtype"]).numpy
    scale, past = _scale(row, rng), _past(row, rng)
    g = _sample(row, math.prod(real_shape), places, rng) * (values not in ("g = 0", "g, m, v = 0"))
    m, root = (
        _sample(row, math.prod(real_shape), places, rng) * past * bool(t and values != "g, m, v = 0") for _ in "mv"
    )
    if places.least:
        for x in (g, root):
            x[places.least] = np.min(np.abs(x)) / 2 * np.sign(x[places.least])
    theta = rng.normal(size=real_shape)
    if row["theta"] == "large":
        theta = 300 * np.copysign(np.maximum(np.abs(theta), 0.2), theta)
    theta = theta * (row["theta"] != "zero")
    flat = (
        _stored(g * scale, g != 0, storage, places.least),
        _stored(m * scale, m != 0, compute, []),
        _stored((root * scale) ** 2, root != 0, compute, places.least),
    )
    theta, (g, m, v) = _round(theta, storage), (x.reshape(real_shape) for x in flat)
    if is_complex:
        twin = dtype_of(row["dtype"], is_complex=True)
        theta, g = (x.view(twin).reshape(shape) for x in (theta, g))
    return LayerCase(theta, g, m, v, axes)


def _sample(row: Row, size: int, places: _Places, rng: np.random.Generator) -> NumPyArray:
    """Numbers about 1, with the values and the spread of the row."""
    free, is_wide = places.free, row["magnitude"] == "wide"
    sign = rng.choice([-1.0, 1.0], size)
    if row["values"] == "constant":
        return np.full(size, rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1))
    x = 10 ** rng.uniform(-5 if is_wide else -0.7, 0.7, size)
    if is_wide:  # two large ones, so that none is dominant
        x[free[:2]] = rng.uniform(1, 5, 2)
        x[places.least[:1] or free[2:3]] = 1e-5
    if row["values"] == "one dominant":
        x[rng.choice(free)] = 1e3
    if row["values"] == "some zeros":
        zero = rng.random(size) < 0.4
        zero[free[: 3 if is_wide else 1]], zero[free[-1]] = False, True
        x[zero] = 0
    return np.asarray(sign * x)


def _scale(row: Row, rng: np.random.Generator) -> float:
    storage, compute = FORMATS[row["dtype"]], compute_format(row["dtype"])
    is_narrow = row["dtype"] == "float16"
    smallest = max(math.sqrt(compute.smallest_subnormal), storage.smallest_subnormal)
    largest = min(math.sqrt(compute.largest), storage.largest)
    if row["magnitude"] == "small":
        return _between(rng, smallest, smallest * (30 if is_narrow else 1e4))
    if row["magnitude"] == "large":
        return largest / 1e3 if is_narrow else _between(rng, largest * 1e-9, largest * 1e-6)
    return _between(rng, 0.1 if row["magnitude"] == "wide" else 1e-3, 0.8)


def _past(row: Row, rng: np.random.Generator) -> float:
    """The size of m and √v, by that of g. Where g has no number to read, theirs must tell the magnitude."""
    if row["values"] != "g = 0" and row["shape"] not in ("()", "(1,)"):
        return _between(rng, 1 / 30, 30)
    return _between(rng, *{"small": (1 / 30, 1), "large": (1, 30)}.get(row["magnitude"], (0.1, 1)))


def _stored(x: NumPyArray, nonzero: NumPyArray, dtype: np.dtype[Any], least: list[int]) -> NumPyArray:
    """Flat numbers rounded to a format. What is not zero stays so, and the least stay the least, if they underflow."""
    with np.errstate(all="ignore"):
        kept = _round(x, dtype)
        tiny = FORMATS[str(dtype)].smallest_subnormal
        kept = np.where(nonzero & (kept == 0), np.copysign(tiny, x), kept.astype(np.float64))
        if least and kept[least[0]] != 0:
            bottom = abs(kept[least[0]])
            other = np.ones(len(x), bool)
            other[least] = False
            kept = np.where(other & (np.abs(kept) <= bottom), np.copysign(2 * bottom, x), kept)
        return np.asarray(kept.astype(dtype))


def _round(x: NumPyArray, dtype: np.dtype[Any]) -> NumPyArray:
    """float64 numbers rounded to a format, and clipped to its largest number."""
    limit = FORMATS[str(dtype)].largest
    with np.errstate(all="ignore"):
        return np.asarray(np.clip(x, -limit, limit).astype(dtype))


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


def _special(row: Row, layer: LayerCase, places: _Places) -> LayerCase:
    """The layer with one coordinate that is not finite, if the row asks for it. The arrays are changed in place."""
    if row["special"] == "none":
        return layer
    name, value = row["special"].split()
    x, number = getattr(layer, FIELDS[name]), _SPECIAL[value]
    where = np.unravel_index(places.special, layer.m.shape)
    if x.dtype.kind == "c":
        *entry, part = where
        old = x[tuple(entry)]
        x[tuple(entry)] = complex(old.real, number) if part else complex(number, old.imag)
    else:
        x[where] = number
    return layer
