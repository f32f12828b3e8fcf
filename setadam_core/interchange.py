"""The neutral form of an optimizer's state: train in one framework, go on in another.

It is a flat dict of NumPy arrays in C's order, so `numpy.savez(file, **form)` and
`safetensors.numpy.save_file(form, file)` keep it bit for bit, and what they load is the form again. (safetensors
writes memory as it lies: of an array in another order it would keep the values, not their places.) Arrays of any
order and byte order are read. For each parameter, by its name:

    <name>/exp_avg      first moment m, in the compute dtype (float32; float64 for float64 and complex128
    <name>/exp_avg_sq   second moment v      parameters), of the parameter's shape s, or s + (2,) if it is complex
    <name>/step         t, the steps taken: int64 of shape ()

A name is the path of keys and indices, joined by dots: "layers.0.weight". The form may also hold options
of groups, as state_dicts of the NumPy and CuPy optimizers do; every other reader leaves them out:

    param_groups/<i>/<option>    a number, a switch, or a row of numbers; an option that is None is absent

Parameters travel as the frameworks' own users do that; hyperparameters, where there are no groups, are code.
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
_MOST_STEPS = 2**63 - 2  # so that int64 holds the next one too


def pack(states: Mapping[str, State], groups: Sequence[Options] = ()) -> Form:
    """The neutral form of states by parameter's name: copies in C's order, so that it does not change with them.

    m and v: NumPy arrays of any strides, as of `setadam_core.init`; t an int. groups: options by name, without
    parameters. TypeError or ValueError for a moment that is no plain NumPy array, a t that is no count.
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
    """States by name, and options of groups (numbers, bools and tuples again), of a neutral form.

    form: as from `pack`, or any mapping of that kind, such as what `numpy.load` returns of an npz file.
    Its arrays may lie in any order, and are not copied unless to this machine's order of bytes. Raises TypeError or
    ValueError for what is no mapping, a key that is of neither kind, a moment that is missing or no plain array, a
    step that is no count.
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
    """Raise ValueError or TypeError unless the state's moments fit a parameter.

    shape, dtype: of its real view (s, or s + (2,) if it is complex) in its compute dtype.
    """
    for field in _MOMENTS:
        x = state[_FIELDS[field]]
        if tuple(x.shape) != tuple(shape):
            raise ValueError(f"{field} of {name!r} must have shape {tuple(shape)}, got {tuple(x.shape)}")
        if x.dtype != dtype:
            raise TypeError(f"{field} of {name!r} must have dtype {dtype}, got {x.dtype}")


def check_step(name: str, value: Any) -> int:
    """A count of steps as an int: of Python, or a whole number or 0-d array of any library.

    Raises ValueError for what is none, or more than an int64 holds.
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
            raise KeyError(f"a state for {name!r}, which is no param: those are {_listed(params)}")


def _state(name: str, found: dict[str, Any]) -> State:
    absent = [field for field in _FIELDS if field not in found]
    if absent:
        raise ValueError(f"the state of {name!r} must have {', '.join(_FIELDS)}, but {absent[0]} is missing")
    m, v = (_moment(name, field, found[field]) for field in _MOMENTS)
    return State(m, v, check_step(name, found["step"]))


def _moment(name: str, field: str, x: Any) -> np.ndarray[Any, Any]:
    """An array in this machine's order of bytes."""
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
