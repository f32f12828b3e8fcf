"""Under which classes of the table of dimensions a backend is wrong, and under which it is right.

Starting from one row, one dimension at a time is changed to each of its other classes. A dimension separates if some of
its classes are wrong and others are right.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from setadam_conformance.cases import dimensions
from setadam_conformance.cases.claimed import as_claimed
from setadam_conformance.cases.dimensions import TABLE, Row
from setadam_conformance.cases.rows import case_of
from setadam_conformance.diagnosis.trying import Budget, BudgetSpentError, Tried, attempt
from setadam_conformance.judging.bench import Bench
from setadam_conformance.protocol import Capabilities

_SEEDS = (1, 2)  # a class is right if it is right with each of them
# Dimensions in the order in which they are tried: those that tell most come first, for a budget of few steps.
_ORDER = (
    "tau", "cos_power", "t", "decay", "eps_is", "eps", "beta2", "beta1", "direction", "numbers", "layers", "place",
    "axes", "shape", "order", "values", "least", "special", "dtype", "magnitude", "lr", "theta",
)  # fmt: skip
# Classes whose being right says nothing about θ, because there the update is zero, tiny or not finite.
HIDING = {
    ("lr", "0"),
    ("lr", "tiny"),
    ("theta", "large"),
    ("values", "g, m, v = 0"),
    ("values", "g = 0"),
    ("magnitude", "small"),
    ("shape", "empty"),
} | {("special", c) for c in TABLE["special"].classes if c != "none"}


@dataclass
class Contrast:
    """The outcome. outcomes: for each dimension, the classes that were tried, and whether they were wrong."""

    base: Row
    stage: str
    base_is_wrong: bool = False
    outcomes: dict[str, dict[str, bool]] = field(default_factory=dict)
    tried: list[Tried] = field(default_factory=list)
    complete: bool = True

    def wrong(self, name: str) -> list[str]:
        """The classes of the dimension at which the stage is wrong."""
        return [c for c, is_wrong in self.outcomes.get(name, {}).items() if is_wrong]

    def right(self, name: str) -> list[str]:
        """The classes at which it is right, without those that hide it."""
        hiding = HIDING if self.stage == "param" else {x for x in HIDING if x[0] not in ("lr", "theta")}
        return [c for c, is_wrong in self.outcomes.get(name, {}).items() if not is_wrong and (name, c) not in hiding]

    @property
    def separating(self) -> list[str]:
        """The dimensions that separate, in the order in which they were tried."""
        return [name for name in self.outcomes if self.wrong(name) and self.right(name)]


def contrast(
    bench_of: Mapping[str, Bench], claims: Capabilities, stage: str, base: Row, budget: Budget, row_seed: int | None
) -> Contrast:
    """Try the row, and then its neighbours in the table. bench_of: a bench for each dtype.

    row_seed: the seed that the row failed with, tried in addition to the usual ones. Raises ProtocolError.
    """
    allowed = dimensions.classes(claims, tuple(bench_of))
    base = {name: c if c in allowed[name] else allowed[name][0] for name, c in base.items()}
    found = Contrast(base, stage)
    seeds = _SEEDS if row_seed is None else (row_seed, *_SEEDS)

    def is_wrong(row: Row) -> bool:
        for seed in seeds:
            tried = attempt(bench_of[row["dtype"]], as_claimed(case_of(row, seed), claims), budget)
            found.tried.append(tried)
            if stage in tried.wrong:
                return True
        return False

    try:
        found.base_is_wrong = is_wrong(base)
        for name in sorted(allowed, key=_ORDER.index):
            for c in allowed[name]:
                row = {**base, name: c}
                if c == base[name]:
                    found.outcomes.setdefault(name, {})[c] = found.base_is_wrong
                elif dimensions.is_possible(row):
                    found.outcomes.setdefault(name, {})[c] = is_wrong(row)
    except BudgetSpentError:
        found.complete = False
    return found


def sentences(found: Contrast, most: int = 6) -> list[str]:
    """What separates: in one line if the base is wrong, and else in one line for each dimension."""
    names = found.separating[:most]
    more = [f"also: {', '.join(found.separating[most:])}"] if len(found.separating) > most else []
    if not found.base_is_wrong:
        return [
            f"wrong with {_named(name, found.wrong(name))}; right with {_named(name, found.right(name), bare=True)}"
            for name in names
        ] + more
    few = [name for name in names if len(found.right(name)) <= len(found.wrong(name))]
    lines = [f"right only with {'; '.join(_named(name, found.right(name)) for name in few)}"] if few else []
    return [*lines, *(f"wrong only with {_named(name, found.wrong(name))}" for name in names if name not in few), *more]


def _named(name: str, classes: list[str], bare: bool = False) -> str:
    """The classes, with what they are of unless `bare`: τ = 0, or shape of the array () · (1,). Of many, the first."""
    text = " · ".join(classes if len(classes) <= 4 else [*classes[:3], "…"])
    what = TABLE[name].what
    if bare:
        return text
    return f"{what} = {text}" if len(what) <= 2 and text[0].isdigit() else f"{what} {text}"
