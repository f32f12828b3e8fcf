"""How a fault is declared: a name, one line that says what is wrong, and the members that are replaced."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.teeth.reference import Layer, Reference, Rows

ALL_DTYPES = tuple(FORMATS)
COMPUTED_IN_FLOAT32 = ("float32", "bfloat16", "float16")
REAL = ("float64", "float32")
SIXTEEN_BIT = ("bfloat16", "float16")


@dataclass(frozen=True)
class Fault:
    """A wrong implementation. dtypes: those in which it is wrong. why: the reason if these are not all dtypes."""

    name: str
    kind: str
    what: str
    adapter: type[Reference]
    dtypes: tuple[str, ...] = ALL_DTYPES
    why: str = ""


FAULTS: dict[str, Fault] = {}


def kind(kind: str, base: type[Reference] = Reference) -> Callable[..., None]:
    """A function that declares faults of this kind from a name, what is wrong, and overrides of the base."""

    def fault(name: str, what: str, dtypes: tuple[str, ...] = ALL_DTYPES, why: str = "", **overrides: Any) -> None:
        if name in FAULTS:
            raise ValueError(f"two faults are called {name!r}")
        if unknown := [member for member in overrides if not hasattr(base, member)]:
            raise ValueError(f"fault {name!r} overrides members that {base.__name__} does not have: {unknown}")
        adapter = type(name, (base,), {"name": f"fault:{name}", **overrides})
        FAULTS[name] = Fault(name, kind, what, adapter, dtypes, why)

    return fault


def answers(change: Any) -> Any:
    """A `step` that changes the right result: change(adapter, params, grads, states, new params, new states)."""

    def step(self: Reference, params: Any, grads: Any, states: Any, hp: Any, axes: Any) -> Any:
        return change(self, params, grads, states, *Reference.step(self, params, grads, states, hp, axes))

    return step


def stores(change: Any) -> Any:
    """A `store` that changes the returned state: change(old, new) -> new."""

    def store(self: Reference, c: Layer, theta: Rows, m: Rows, v: Rows) -> Any:
        param, state = Reference.store(self, c, theta, m, v)
        return param, change(c.given[2], state)

    return store


def with_hyperparameters(c: Layer, **changes: Any) -> Layer:
    """The layer with these hyperparameters changed, and not checked."""
    hp = object.__new__(type(c.hp))
    hp.__dict__.update({**c.hp.__dict__, **changes})
    return Layer(**{**c.__dict__, "hp": hp})
