"""How a property is declared: a name, the cases it is tried on, the options it needs."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

from setadam_conformance.cases.case import Case
from setadam_conformance.judging.bench import Bench
from setadam_conformance.protocol import Capabilities

Check = Callable[[Bench, Case], None]
Strategy = Callable[[Capabilities, str], st.SearchStrategy[Case]]


@dataclass(frozen=True)
class Property:
    """A rule that every backend must satisfy, and the examples on which it is tried."""

    name: str
    check: Check
    strategy: Strategy
    needs: frozenset[str]
    dtypes: frozenset[str]
    share: float  # of the profile's number of examples: 0.5 is half as many
    uses_usual_graphs: bool  # no backend needs to compile a graph for this property alone
    applies: Callable[[Capabilities], bool]
    narrow: str | None  # the 16-bit format that reveals more faults than the other, if one does
    covers: bool = False  # its examples are rows of the table of dimensions (`cases.dimensions`), not drawn
    about: Literal["arithmetic", "interface"] = "arithmetic"
    free: frozenset[str] = frozenset()  # hyperparameters that it sets itself

    @property
    def explanation(self) -> str:
        return inspect.getdoc(self.check) or ""

    @property
    def is_central(self) -> bool:
        """Tried with the most examples, and in every dtype of every backend."""
        return self.share > 1

    @property
    def is_long(self) -> bool:
        """One example takes as long as ten examples of other properties."""
        return self.share <= 0.1

    def concerns(self, claims: Capabilities, dtype: str) -> bool:
        """True if the backend claims everything that the property needs, and fixes nothing that it changes."""
        free = not (self.free | self.needs) & claims.fixed.keys()
        return dtype in self.dtypes and self.needs <= claims.options and free and self.applies(claims)


PROPERTIES: dict[str, Property] = {}
ALL_DTYPES = ("float64", "float32", "bfloat16", "float16")


def layerwise(claims: Capabilities) -> bool:
    """For properties that need down-scaling or translation: whether the backend has them."""
    return not claims.is_elementwise


def prop(
    strategy: Strategy,
    *,
    needs: tuple[str, ...] = (),
    dtypes: tuple[str, ...] = ALL_DTYPES,
    share: float = 0.5,
    usual_graphs: bool = False,
    applies: Callable[[Capabilities], bool] = lambda claims: True,
    narrow: str | None = None,
    covers: bool = False,
    about: Literal["arithmetic", "interface"] = "arithmetic",
    free: tuple[str, ...] = (),
) -> Callable[[Check], Check]:
    """Register a property under its function's name, with hyphens."""

    def register(check: Check) -> Check:
        name = check.__name__.replace("_", "-")
        PROPERTIES[name] = Property(
            name,
            check,
            strategy,
            frozenset(needs),
            frozenset(dtypes),
            share,
            usual_graphs,
            applies,
            narrow,
            covers,
            about,
            frozenset(free),
        )
        return check

    return register
