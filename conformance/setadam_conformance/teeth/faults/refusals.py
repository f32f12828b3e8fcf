"""Seeded faults of steps in place that are right, and refuse what they should, but have written something by then.

One for each quantity and each reason for a refusal. The step count is an array, counted in place, where the step itself
has made it; one more fault keeps a counter of its own.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from setadam_conformance.teeth.faults.declare import kind
from setadam_conformance.teeth.reference import Reference
from setadam_conformance.teeth.variants import IN_PLACE, step_in_place

fault = kind("written before a refusal")

# What is wrong with a call, by the error of the reference.
_REASONS: dict[str, tuple[str, Callable[[Exception], bool]]] = {
    "hyperparameter": ("a bad hyperparameter", lambda error: not str(error).startswith(("grad", "state"))),
    "shape": ("a bad shape in the last layer", lambda error: "shape" in str(error)),
    "dtype": ("a bad dtype in the last layer", lambda error: "dtype" in str(error)),
    "count": ("a negative t", lambda error: str(error).startswith("state.t")),
}


_WRITES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "theta": lambda p, g, s: p.fill(7),
    "g": lambda p, g, s: g.fill(7),
    "m": lambda p, g, s: s.m.fill(7),
    "v": lambda p, g, s: s.v.fill(7),
    "t": lambda p, g, s: s.t.fill(7) if isinstance(s.t, np.ndarray) else None,
}


def _writes_first(quantity: str, reason: str) -> Any:
    """A step that, before it refuses for this reason, has written the quantity in the first layer."""

    def step(self: Reference, params: Any, grads: Any, states: Any, hp: Any, axes: Any) -> Any:
        try:
            return step_in_place(self, params, grads, states, hp, axes)
        except (TypeError, ValueError) as error:
            if _REASONS[reason][1](error):
                _WRITES[quantity](params[0], grads[0], states[0])
            raise

    return step


for _quantity, _symbol in {"theta": "θ", "g": "g", "m": "m", "v": "v", "t": "t"}.items():
    for _reason, (_what, _) in _REASONS.items():
        if (_quantity, _reason) != ("t", "count"):  # a given t of -1 is a number, not an array
            fault(
                f"writes-{_quantity}-before-{_reason}",
                f"in place, {_symbol} is written before {_what} is refused",
                capabilities=IN_PLACE,
                step=_writes_first(_quantity, _reason),
            )


def _own_counter(self: Reference, params: Any, grads: Any, states: Any, hp: Any, axes: Any) -> Any:
    """The optimizer counts by parameter, and ignores a t that goes on from its own last one."""
    known = self.memory.setdefault("counts", {})
    key = id(params[0])
    own = known[key][1] if key in known and known[key][0] is params[0] else int(states[0].t)
    known.clear()  # of other parameters
    known[key] = (params[0], own + 1)
    return step_in_place(self, params, grads, [s._replace(t=own) for s in states], hp, axes)


fault(
    "counts-before-checks",
    "in place, the optimizer's own counter is incremented before all checks",
    capabilities=IN_PLACE,
    step=_own_counter,
)
