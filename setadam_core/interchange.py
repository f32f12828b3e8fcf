"""The neutral form of an optimizer's state: train in one framework, go on in another.

It is a flat dict of NumPy arrays, so `numpy.savez(file, **form)` and `safetensors.numpy.save_file(form,
file)` keep it bit for bit, and what they load is the form again. For each parameter, by its name:

    <name>/exp_avg      first moment m, in the compute dtype (float32; float64 for float64 and complex128
    <name>/exp_avg_sq   second moment v      parameters), of the parameter's shape s, or s + (2,) if it is complex
    <name>/step         t, the steps taken: int64 of shape ()

A name is the path of keys and indices, joined by dots: "layers.0.weight". The form may also hold options
of groups, as state_dicts of the NumPy and CuPy optimizers do; every other reader leaves them out:

    param_groups/<i>/<option>    a number, a switch, or a row of numbers; an option that is None is absent

Parameters travel as the frameworks' own users do that; hyperparameters, where there are no groups, are code.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from setadam_core.spec import State

Form = dict[str, np.ndarray[Any, Any]]
Options = dict[str, Any]

_FIELDS = {"exp_avg": 0, "exp_avg_sq": 1, "step": 2}  # of State, by position
_GROUPS = "param_groups/"


def pack(states: Mapping[str, State], groups: Sequence[Options] = ()) -> Form:
    """The neutral form of states by parameter's name: copies, so that it does not change with them.

    m and v: NumPy arrays, as of `setadam_core.init`; t an int. groups: options by name, without parameters.
    """
    form: Form = {}
    for name, state in states.items():
        for field, i in _FIELDS.items():
            form[f"{name}/{field}"] = np.array(state[i], dtype=np.int64 if field == "step" else None)
    for i, options in enumerate(groups):
        for option, value in options.items():
            if value is not None:
                form[f"{_GROUPS}{i}/{option}"] = np.array(value)
    return form


def unpack(form: Mapping[str, Any]) -> tuple[dict[str, State], list[Options]]:
    """States by name, and options of groups (numbers, bools and tuples again), of a neutral form.

    form: as from `pack`, or any mapping of that kind, such as what `numpy.load` returns of an npz file.
    Its arrays are not copied. Raises ValueError for a key that is of neither kind, a moment that is
    missing or no array, a step that is no count.
    """
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
    for field in ("exp_avg", "exp_avg_sq"):
        x = state[_FIELDS[field]]
        if tuple(x.shape) != tuple(shape):
            raise ValueError(f"{field} of {name!r} must have shape {tuple(shape)}, got {tuple(x.shape)}")
        if x.dtype != dtype:
            raise TypeError(f"{field} of {name!r} must have dtype {dtype}, got {x.dtype}")


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
    for field in ("exp_avg", "exp_avg_sq"):
        if not isinstance(found[field], np.ndarray):
            raise ValueError(f"{field} of {name!r} must be a NumPy array, got {type(found[field]).__name__}")
    step = np.asarray(found["step"])
    if step.shape != () or step.dtype.kind not in "iu" or step < 0:
        raise ValueError(f"step of {name!r} must be a whole number ≥ 0, got {found['step']!r}")
    return State(found["exp_avg"], found["exp_avg_sq"], int(step))


def _plain(value: Any) -> Any:
    """A 0-d array as a Python number or bool, a row as a tuple of them."""
    listed = np.asarray(value).tolist()
    return tuple(listed) if isinstance(listed, list) else listed


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "") or "none"
