"""Checking claims: those of a class, and those that a program sends."""

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from setadam_conformance.cases.case import DEFAULTS
from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.protocol import OPTIONS, Capabilities
from setadam_core import Hyperparameters

CLAIMS: dict[str, Any] = get_type_hints(Capabilities)  # the type of each
SWITCHES = frozenset(name for name, value in DEFAULTS.items() if isinstance(value, bool))
_AMONG = {"dtypes": frozenset(FORMATS), "options": OPTIONS, "float32_scalars": DEFAULTS.keys() - SWITCHES}


def wrong_claim(claims: Capabilities) -> str:
    """The first claim that is not valid, in words that follow the backend's name; empty if all are valid."""
    for name, kind in CLAIMS.items():
        value = getattr(claims, name)
        allowed = _unless_valid(name, kind, value)
        if allowed:
            return f"claims {name} {value!r}; it must be {allowed}"
    return ""


def _unless_valid(name: str, kind: Any, value: Any) -> str:
    """What a claim must be, if it is not that."""
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind is int:
        return "" if type(value) is int and value >= 1 else "a whole number ≥ 1"
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else f"one of {', '.join(get_args(kind))}"
    if name == "fixed":
        return _unless_hyperparameters(value)
    if not isinstance(value, tuple | frozenset) or not all(isinstance(x, str) for x in value):
        return f"a {get_origin(kind).__name__} of strings (in JSON, an array)"
    if name == "dtypes" and not value:
        return f"at least one of {', '.join(FORMATS)}"
    return "" if set(value) <= _AMONG.get(name, set(value)) else f"among {', '.join(sorted(_AMONG[name]))}"


def _unless_hyperparameters(value: Any) -> str:
    if not isinstance(value, Mapping) or not value.keys() <= DEFAULTS.keys():
        return f"a mapping from hyperparameters to their values, of {', '.join(DEFAULTS)}"
    try:
        Hyperparameters(**value)
    except (TypeError, ValueError) as error:
        return f"valid hyperparameters: {error}"
    return ""
