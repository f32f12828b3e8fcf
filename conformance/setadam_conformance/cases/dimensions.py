"""The table of dimensions: what a step may depend on, and the classes that are tried of each.

An example is a row: one class of each dimension. `covering` draws rows so that the classes, or all pairs of them,
meet; `rows` makes a row into a case. The first class of a dimension is the plainest, towards which failures shrink. A
class that needs an option is tried only if the backend claims the option.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

from setadam_conformance.cases.case import DEFAULTS
from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.protocol import Capabilities

Row = Mapping[str, str]  # dimension → class
Pair = tuple[tuple[str, str], tuple[str, str]]


@dataclass(frozen=True)
class Dimension:
    """One dimension. classes: the name of each class, and the options that it needs."""

    name: str
    classes: Mapping[str, frozenset[str]]
    what: str  # for the documentation


def _dimension(name: str, what: str, *classes: str, needs: Mapping[str, str] | None = None) -> Dimension:
    """needs: class → options, separated by blanks; "*" is every class but the first."""
    needs = needs or {}
    every = {c: frozenset(needs.get(c, needs.get("*", "") if i else "").split()) for i, c in enumerate(classes)}
    return Dimension(name, every, what)


TABLE: dict[str, Dimension] = {
    d.name: d
    for d in (
        _dimension("dtype", "format of θ and g", "float32", "float64", "bfloat16", "float16"),
        _dimension("numbers", "real or complex", "real", "complex", needs={"complex": "complex"}),
        _dimension("lr", "η", "1e-3", "0", "below 1", "above 1", "tiny"),
        _dimension("beta1", "β₁", "0.9", "0", "below ½", "near 1"),
        _dimension("beta2", "β₂", "0.999", "0", "below ½", "near 1"),
        _dimension("eps", "ε", "1e-8", "tiny", "between", "large"),
        _dimension("tau", "τ", "0.5", "0", "between", "near 1"),
        _dimension(
            "decay",
            "λ, and how it is applied",
            "none", "coupled", "coupled, above ½", "decoupled", "decoupled, 1-ηλ < 0",
            needs={
                "coupled": "weight_decay",
                "coupled, above ½": "weight_decay",
                "decoupled": "decoupled_weight_decay",
                "decoupled, 1-ηλ < 0": "decoupled_weight_decay",
            },
        ),
        _dimension("direction", "maximize", "descend", "ascend", needs={"ascend": "maximize"}),
        _dimension("cos_power", "n", "2", "0", "below 2", "4", "above 2", needs={"*": "cos_power"}),
        _dimension("eps_is", "place of ε", "inside", "outside", needs={"outside": "eps_inside_sqrt"}),
        _dimension("t", "steps taken", "0", "1 to 9", "10 to 10⁵", "beyond 2²⁴", "about 2³¹"),
        _dimension("theta", "size of θ", "near 1", "zero", "large"),
        _dimension("magnitude", "size of g, m, v", "near 1", "small", "large", "wide"),
        _dimension(
            "values", "values of g, m, v",
            "normal", "some zeros", "constant", "one dominant", "g = 0", "g, m, v = 0",
        ),
        _dimension("least", "where v is smallest", "anywhere", "first", "last", "tied"),
        _dimension(
            "special", "one coordinate that is not finite",
            "none", "g NaN", "g Inf", "g -Inf", "θ NaN", "θ Inf", "m NaN", "m Inf", "v NaN", "v Inf",
        ),
        _dimension(
            "shape", "shape of the array",
            "vector", "()", "(1,)", "matrix", "3 or 4 axes", "5 or more axes", "axes of length 1",
            "hundreds", "thousands", "a block and a tail", "empty",
            needs={"empty": "empty"},
        ),
        _dimension(
            "axes", "layer_axes",
            "None", "all", "first", "last", "apart", "()", "negative",
            needs={"*": "layer_axes"},
        ),
        _dimension("order", "order in memory", "C", "Fortran", "gaps", "g Fortran", "g gaps"),
        _dimension("layers", "layers in the call", "1", "2 or 3", "4 to 9", "10 or more", needs={"*": "many"}),
        _dimension("place", "the layer with these classes", "first", "last", needs={"last": "many"}),
    )
}  # fmt: skip

# The largest number of steps taken in a class of "t".
LAST_T = {"0": 0, "1 to 9": 9, "10 to 10⁵": 10**5, "beyond 2²⁴": 2**30, "about 2³¹": 2**31 + 2}

_FLAT = {"vector", "hundreds", "thousands", "a block and a tail"}
_ONE = {"()", "(1,)"}
_FORTRAN = {"Fortran", "g Fortran"}
_GAPS = {"gaps", "g gaps"}

# The hyperparameters behind dimensions of another name.
_FIELDS = {"direction": "maximize", "eps_is": "eps_inside_sqrt", "decay": "weight_decay"}

# Classes of two dimensions that cannot meet. The only rule for more, `_is_readable`, keeps no pair from meeting.
_APART: list[tuple[str, set[str], str, set[str]]] = [
    ("numbers", {"complex"}, "dtype", {"bfloat16", "float16"}),
    ("lr", {"0"}, "decay", {"decoupled, 1-ηλ < 0"}),
    ("layers", {"1"}, "place", {"last"}),
    ("axes", {"all", "first", "last", "apart", "negative"}, "shape", {"()"}),
    ("axes", {"first", "last"}, "shape", {"vector", "(1,)"}),
    ("axes", {"apart"}, "shape", {"(1,)", "matrix", *_FLAT}),
    ("axes", {"()"}, "shape", {"thousands", "a block and a tail"}),  # hundreds of layers of one coordinate are enough
    ("order", _FORTRAN, "shape", {*_FLAT, *_ONE, "empty"}),
    ("order", _GAPS, "shape", {*_ONE, "empty"}),
    ("least", {"first", "last", "tied"}, "shape", {*_ONE, "empty"}),
    ("least", {"first", "last", "tied"}, "values", {"some zeros", "constant", "g, m, v = 0"}),  # several are least
    ("values", {"g = 0"}, "t", {"0"}),  # then all are 0
    ("values", {"some zeros", "constant", "one dominant"}, "shape", {*_ONE, "empty"}),
    ("values", {"g = 0", "g, m, v = 0"}, "shape", {"empty"}),
    ("values", {"g, m, v = 0"}, "magnitude", {"small", "large", "wide"}),
    ("values", {"constant"}, "magnitude", {"wide"}),
    ("magnitude", {"small", "large", "wide"}, "shape", {"empty"}),
    ("magnitude", {"wide"}, "shape", _ONE),
    ("theta", {"zero", "large"}, "shape", {"empty"}),
    ("theta", {"zero", "large"}, "special", {"θ NaN", "θ Inf"}),
    ("special", set(TABLE["special"].classes) - {"none"}, "shape", {"empty"}),
]


# Classes that hide others: an empty layer shows nothing, and with a NaN in its minimum all of a layer's θ is NaN.
_HIDING = {("shape", "empty"), *(("special", c) for c in TABLE["special"].classes if c[0] in "gv")}


def hides(item: tuple[str, str], strength: int = 2) -> bool:
    """Whether faults of other classes may not show in an example of this class: only pairs with it count there.

    strength: 1 where single classes are counted, for which m and v are enough to show them.
    """
    return item in _HIDING and (strength == 2 or item == ("shape", "empty"))


@cache
def _forbidden() -> frozenset[Pair]:
    return frozenset(
        pair for a, of_a, b, of_b in _APART for x in of_a for y in of_b for pair in (((a, x), (b, y)), ((b, y), (a, x)))
    )


def fit(a: tuple[str, str], b: tuple[str, str]) -> bool:
    """Whether two classes can meet in one example."""
    return (a, b) not in _forbidden()


def hyperparameter_classes(hp: Mapping[str, Any]) -> dict[str, str]:
    """The classes of hyperparameters, read from their values."""
    beta1, beta2, power = hp["beta1"], hp["beta2"], hp["cos_power"]
    usual_lr = hp["lr"] >= 1e-3 or hp["lr"] < 1e-9
    of_lr = ("0", 0), ("tiny", 1e-9), ("1e-3", 1e-3), ("below 1", 1), ("above 1", math.inf)
    of_beta = ("0", 0), ("below ½", 0.5), ("near 1", 1)
    of_eps = ("tiny", 1e-20), ("between", 1e-5), ("large", math.inf)
    of_tau = ("0", 0), ("between", 0.9), ("near 1", 1)
    of_power = ("below 2", 2), ("above 2", math.inf)
    return {
        "lr": first_class(hp["lr"], *of_lr) if usual_lr else "below 1",
        "beta1": "0.9" if beta1 == 0.9 else first_class(beta1, *of_beta),
        "beta2": "0.999" if beta2 == 0.999 else first_class(beta2, *of_beta),
        "eps": "1e-8" if hp["eps"] == 1e-8 else first_class(hp["eps"], *of_eps),
        "tau": "0.5" if hp["tau"] == 0.5 else first_class(hp["tau"], *of_tau),
        "decay": _decay(hp),
        "direction": "ascend" if hp["maximize"] else "descend",
        "cos_power": {2.0: "2", 0.0: "0", 4.0: "4"}.get(power) or first_class(power, *of_power),
        "eps_is": "inside" if hp["eps_inside_sqrt"] else "outside",
    }


def first_class(x: float, *limits: tuple[str, float]) -> str:
    """The first class whose upper end is not below x."""
    return next(name for name, end in limits if x <= end)


def _decay(hp: Mapping[str, Any]) -> str:
    if not hp["weight_decay"]:
        return "none"
    if hp["decoupled_weight_decay"]:
        return "decoupled" if hp["lr"] * hp["weight_decay"] <= 1 else "decoupled, 1-ηλ < 0"
    return "coupled" if hp["weight_decay"] <= 0.5 else "coupled, above ½"


def is_possible(row: Row) -> bool:
    """Whether the classes of a row can meet."""
    return is_readable(row) and all(fit(a, b) for a, b in combinations(row.items(), 2))


def is_readable(row: Row) -> bool:
    """Whether the arrays of an example can have, and show, all of the row's classes. Those left out are the plainest.

    If the only coordinate of g is not finite, g shows nothing of its values; nor, before the first step, is there
    anything that has a magnitude.
    """
    if row.get("shape") not in _ONE or row.get("numbers") == "complex" or row.get("special", "")[:1] != "g":
        return True
    if row.get("values", "normal") != "normal":
        return False
    return row.get("t", "0") != "0" or row.get("magnitude", "near 1") == "near 1"


def classes(claims: Capabilities, dtypes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """For each dimension, the classes that the claims allow in these dtypes."""
    found = {}
    for name, dimension in TABLE.items():
        kept = tuple(c for c, needs in dimension.classes.items() if needs <= claims.options)
        found[name] = tuple(c for c in kept if c in dtypes) if name == "dtype" else kept
    found["t"] = tuple(c for c in found["t"] if LAST_T[c] < claims.largest_t)
    if claims.fixed:
        fixed = hyperparameter_classes({**DEFAULTS, **claims.fixed})
        found.update({name: (c,) for name, c in fixed.items() if _FIELDS.get(name, name) in claims.fixed})
    if "decoupled_weight_decay" in claims.fixed:
        decoupled = bool(claims.fixed["decoupled_weight_decay"])
        found["decay"] = tuple(c for c in found["decay"] if c == "none" or c.startswith("decoupled") is decoupled)
    if claims.compiles and claims.is_slow:  # a graph of ten layers takes a minute
        found["layers"] = tuple(c for c in found["layers"] if c in ("1", "2 or 3"))
    if not {"float32", "float64"} & set(dtypes):
        found["numbers"] = ("real",)
    return found


def pairs(allowed: Mapping[str, tuple[str, ...]]) -> Iterator[Pair]:
    """All pairs of classes that can meet, in the table's order."""
    for a, b in combinations(allowed, 2):
        for x in allowed[a]:
            for y in allowed[b]:
                if fit((a, x), (b, y)):
                    yield (a, x), (b, y)


def plainest() -> dict[str, str]:
    """The row of the first class of each dimension."""
    return {name: next(iter(dimension.classes)) for name, dimension in TABLE.items()}


assert set(TABLE["dtype"].classes) == set(FORMATS)
