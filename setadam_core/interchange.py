"""The neutral form of an optimizer's state: train in one framework and continue in another.

The form is a flat dict of NumPy arrays in C order. `numpy.savez(file, **form)` and
`safetensors.numpy.save_file(form, file)` save it bit for bit, and loading the file gives the form again. (safetensors
writes memory without regard to strides, so the values of arrays in another order would be misplaced.) Arrays of any
memory order and byte order can be loaded. For each parameter, by its name:

    <name>/exp_avg      first moment m, in the compute dtype (float32; float64 for float64 and complex128
    <name>/exp_avg_sq   second moment v      parameters), of the parameter's shape s, or s + (2,) if it is complex
    <name>/step         t, the steps taken: int64 of shape ()

A name is the path of keys and indices, joined by dots: "layers.0.weight". The form may also have the options of
groups, as the state_dicts of the NumPy and CuPy optimizers do; other readers ignore them:

    param_groups/<i>/<option>    a number, a switch, or a row of numbers; an option that is None is absent

The form does not include the parameters. Without groups, it does not include the hyperparameters either.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any

import numpy as np

from setadam_core.layers import as_array
from setadam_core.plain import check_plain
from setadam_core.spec import State

Form = dict[str, np.ndarray[Any, Any]]
Options = dict[str, Any]

_FIELDS = {"exp_avg": 0, "exp_avg_sq": 1, "step": 2}  # of State, by position
_MOMENTS = ("exp_avg", "exp_avg_sq")
_GROUPS = "param_groups/"
_MOST_STEPS = 2**63 - 2  # so that the next step still fits in an int64


def pack(states: Mapping[str, State], groups: Sequence[Options] = ()) -> Form:
    """The neutral form of states, given by parameter name. Its arrays are copies in C order.

    m and v: NumPy arrays of any strides, as `setadam_core.init` returns them; t an int. groups: options by name,
    without parameters. TypeError or ValueError for a moment that is not a plain NumPy array, or a t that is not a
    count.
    """
    form: Form = {}
    for name, state in states.items():
        moments = (_moment(name, field, state[_FIELDS[field]]) for field in _MOMENTS)
        form |= {f"{name}/{field}": np.array(x, order="C") for field, x in zip(_MOMENTS, moments, strict=True)}
        form[f"{name}/step"] = np.array(check_step(name, state.t), dtype=np.int64)
    for i, options in enumerate(groups):
        for option, value in options.items():
            if value is not None:
                form[f"{_GROUPS}{i}/{option}"] = np.array(value, order="C")
    return form


def unpack(form: Mapping[str, Any]) -> tuple[dict[str, State], list[Options]]:
    """The states by name, and the options of groups (as numbers, bools and tuples), of a neutral form.

    form: from `pack`, or any mapping of that kind, such as `numpy.load` returns for an npz file. Its arrays may have
    any memory order. They are copied only to change the byte order to this machine's. Raises TypeError or ValueError
    for a form that is not a mapping, a key of neither kind, a moment that is missing or not a plain array, and a step
    that is not a count.
    """
    if not isinstance(form, Mapping):
        raise TypeError(f"a neutral form must be a mapping of names to arrays, got {type(form).__name__}")
    fields: dict[str, dict[str, Any]] = {}
    groups: dict[int, Options] = {}
    for key in form:
        name, _, field = key.rpartition("/")
        prefix, _, index = name.rpartition("/")
        if field in _FIELDS:
            fields.setdefault(name, {})[field] = form[key]
        elif f"{prefix}/" == _GROUPS and index.isdecimal():
            groups.setdefault(int(index), {})[field] = _plain(form[key])
        else:
            raise ValueError(f"a key must be <name>/{{{','.join(_FIELDS)}}} or {_GROUPS}<i>/<option>, got {key!r}")
    if sorted(groups) != list(range(len(groups))):
        raise ValueError(f"{_GROUPS}<i> must count up from 0, got {sorted(groups)}")
    states = {name: _state(name, found) for name, found in fields.items()}
    return states, [groups[i] for i in range(len(groups))]


def check_state(name: str, state: State, shape: Sequence[int], dtype: str) -> None:
    """Raise ValueError or TypeError unless the moments of a state have this shape and dtype.

    shape: of the parameter's real view, s, or s + (2,) if it is complex. dtype: its compute dtype.
    """
    for field in _MOMENTS:
        x = state[_FIELDS[field]]
        if tuple(x.shape) != tuple(shape):
            raise ValueError(f"{field} of {name!r} must have shape {tuple(shape)}, got {tuple(x.shape)}")
        if x.dtype != dtype:
            raise TypeError(f"{field} of {name!r} must have dtype {dtype}, got {x.dtype}")


def check_step(name: str, value: Any) -> int:
    """A step count as an int, from a Python int, or from a whole number or 0-d array of any library.

    Raises ValueError for anything else, and for a count that an int64 cannot represent.
    """
    try:
        count = -1 if isinstance(value, bool | np.bool_) else index(value)
    except TypeError:
        count = -1
    if not 0 <= count <= _MOST_STEPS:
        raise ValueError(f"step of {name!r} must be a whole number ≥ 0, and below 2**63 - 1, got {value!r}")
    return count


def check_names(given: Iterable[str], params: Iterable[str]) -> None:
    """Raise KeyError unless there is a state for each parameter, and no other."""
    given, params = dict.fromkeys(given), dict.fromkeys(params)
    for name in params:
        if name not in given:
            raise KeyError(f"no state for param {name!r}, only for {_listed(given)}")
    for name in given:
        if name not in params:
            raise KeyError(f"there is no param {name!r} for this state, only {_listed(params)}")


def _state(name: str, found: dict[str, Any]) -> State:
    absent = [field for field in _FIELDS if field not in found]
    if absent:
        raise ValueError(f"the state of {name!r} must have {', '.join(_FIELDS)}, but {absent[0]} is missing")
    m, v = (_moment(name, field, found[field]) for field in _MOMENTS)
    return State(m, v, check_step(name, found["step"]))


def _moment(name: str, field: str, x: Any) -> np.ndarray[Any, Any]:
    """An array in this machine's byte order."""
    x = as_array(x)
    if not isinstance(x, np.ndarray):
        raise ValueError(f"{field} of {name!r} must be a NumPy array, got {type(x).__name__}")
    check_plain(f"{field} of {name!r}", x)
    return np.asarray(x) if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def _plain(value: Any) -> Any:
    """A 0-d array as a Python number or bool, a row as a tuple of them."""
    listed = np.asarray(value).tolist()
    return tuple(listed) if isinstance(listed, list) else listed


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "") or "none"
