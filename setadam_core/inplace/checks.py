"""The checks before a step, all made before anything is written; they return one `Task` for each parameter."""

from collections.abc import Sequence
from operator import is_not
from typing import Any

from array_api_compat import device

from setadam_core.hyperparameters import Hyperparameters
from setadam_core.inplace.aliasing import Footprint, check_separate
from setadam_core.inplace.groups import Group, arrays_of, check_params, check_writeable, checked_layer
from setadam_core.inplace.layout import Task
from setadam_core.inplace.memory import Memory
from setadam_core.inplace.state import Entries, entry, read_state
from setadam_core.interchange import check_state
from setadam_core.layers import Array
from setadam_core.spec import State


class Checks:
    """The checks of one optimizer. Arrays that passed are not examined again until one of them is replaced, or has
    another shape, other strides or another dtype.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._written: list[Array] = []  # what steps write, when it was last checked
        self._layouts: list[Any] = []  # theirs
        self.footprint = Footprint({}, memory.bounds)  # theirs

    def states(self, groups: Sequence[Group], states: Entries) -> dict[str, State]:
        """The states by the parameters' names. TypeError or ValueError if an array that a step writes is not an
        array of this backend, or shares memory with another one.
        """
        params = arrays_of(groups)
        entries = [entry(states, name) for name in params]
        written = [*params.values(), *(m for m, _, _ in entries), *(v for _, v, _ in entries)]
        known = len(written) == len(self._written) and not any(map(is_not, written, self._written))
        if not known or _layouts(written) != self._layouts:
            self.footprint = self._checked(params, groups, states)
            self._written, self._layouts = written, _layouts(written)
        return {name: read_state(states, name, self._memory) for name in params}

    def task(self, name: str, param: Array, grad: Array, before: State, hp: Hyperparameters, group: Group) -> Task:
        """One parameter's part of a step. TypeError or ValueError, naming it, if an array or ε does not fit."""
        memory = self._memory
        if grad.shape != param.shape:
            raise ValueError(f"grad {name!r} must have its param's shape {param.shape}, got {grad.shape}")
        if grad.dtype != param.dtype:
            raise TypeError(f"grad {name!r} must have its param's dtype {param.dtype}, got {grad.dtype}")
        if device(grad) != device(param):
            raise ValueError(f"grad {name!r} must be on its param's device {device(param)}, got {device(grad)}")
        memory.check_aligned("grad", name, grad)
        for other in self.footprint.near(grad):
            if other == f"param {name!r}":
                grad = self._apart(grad, param)
            elif memory.share(grad, self.footprint.arrays[other]):
                raise ValueError(f"grad {name!r} shares memory with {other}, which the same step changes")
        layer, theta = checked_layer(name, param, group["layer_axes"], hp), memory.real(param)
        for what, x in (("param", param), ("exp_avg of", before.m), ("exp_avg_sq of", before.v)):
            check_writeable(what, name, x)
        check_state(name, before, theta.shape, layer.dtype.__name__)
        fused = None if group["fused"] is None else bool(group["fused"])
        return Task(theta, memory.real(grad), before.m, before.v, before.t + 1, hp, layer, fused)

    def _apart(self, grad: Array, param: Array) -> Array:
        """A gradient that a step may read while it writes the parameter. A gradient that is the parameter itself is
        safe, since each element is read before it is written; one that overlaps it in another way is copied.
        """
        memory = self._memory
        same = memory.bounds(grad) == memory.bounds(param) and grad.strides == param.strides
        return grad if same or not memory.share(grad, param) else grad.copy()

    def _checked(self, params: dict[str, Array], groups: Sequence[Group], states: Entries) -> Footprint:
        memory = self._memory
        found: dict[str, Array] = {}
        for name, param in params.items():
            if memory.as_leaf(param) is None:
                raise TypeError(f"param {name!r} must be an array, got {type(param).__name__}")
            m, v, _ = read_state(states, name, memory)
            for field, x in (("exp_avg", m), ("exp_avg_sq", v)):
                if device(x) != device(param):
                    raise ValueError(
                        f"{field} of {name!r} must be on its param's device {device(param)}, got {device(x)}"
                    )
            for what, x in (("param", param), ("exp_avg of", m), ("exp_avg_sq of", v)):
                memory.check_aligned(what, name, x)
                found[f"{what} {name!r}"] = x
        for group in groups:
            check_params(group, memory.dtypes)
        return check_separate(found, memory.bounds, memory.share)


def _layouts(arrays: Sequence[Array]) -> list[Any]:
    return [(x.shape, x.strides, x.dtype) for x in arrays]
