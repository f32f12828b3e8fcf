"""The state of each parameter, which users may read and replace: ``exp_avg``, ``exp_avg_sq`` and ``step``."""

from collections.abc import Mapping
from typing import Any

from setadam_core.inplace.memory import Memory
from setadam_core.interchange import check_step
from setadam_core.layers import Array, compute_dtype_name
from setadam_core.spec import State

Entries = Mapping[str, Mapping[str, Any]]  # the fields by the parameter's name

NEW = State(None, None, 0)


def entry(states: Entries, name: str) -> tuple[Any, Any, Any]:
    """The fields of a parameter as they are, unchecked. KeyError, naming the parameter, if one is missing."""
    try:
        found = states[name]
        return found["exp_avg"], found["exp_avg_sq"], found["step"]
    except KeyError as error:
        needed = "exp_avg, exp_avg_sq and step"
        raise KeyError(f"the state of {name!r} must have {needed}, but {error} is missing") from None


def read_state(states: Entries, name: str, memory: Memory) -> State:
    """The state of a parameter. TypeError or ValueError if a moment is not an array, or the step not a count."""
    m, v, t = entry(states, name)
    return State(_moment("exp_avg", name, m, memory), _moment("exp_avg_sq", name, v, memory), check_step(name, t))


def fresh_state(param: Array, memory: Memory, values: State = NEW) -> dict[str, Any]:
    """A state for a parameter, in memory of its own, with the values of a state of NumPy arrays."""
    theta, dtype = memory.real(param), compute_dtype_name(param)
    return {
        "step": values.t,
        "exp_avg": memory.like(theta, dtype, values.m),
        "exp_avg_sq": memory.like(theta, dtype, values.v),
    }


def _moment(field: str, name: str, x: Any, memory: Memory) -> Array:
    leaf = memory.as_leaf(x)
    if leaf is None:
        raise TypeError(f"{field} of {name!r} must be an array, got {type(x).__name__}")
    return leaf
