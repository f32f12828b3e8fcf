"""What a step takes over from the one before it, so that checks in Python do not limit small layers.

After a full step, a `Plan` keeps what its checks rested on. The next step reads all of that again, for all layers at
once, and takes over the results of the checks only if nothing differs:

- of each group: the names, and the options ``layer_axes``, ``fused`` and ``stochastic_rounding`` (the others are
  checked in each step);
- of each parameter and moment: that it is the same array, and its address, shape, strides, dtype and flags, all of
  which can be set;
- of each gradient: its type, shape and dtype, and that it overlaps nothing that is written. It may lie elsewhere, and
  in another order.

Otherwise nothing is done, and the optimizer makes all checks anew. So there is one place that raises errors.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from setadam_core.hyperparameters import Hyperparameters
from setadam_core.inplace import InPlaceOptimizer, Task
from setadam_core.inplace.aliasing import Footprint
from setadam_core.inplace.containers import Outline
from setadam_core.inplace.groups import Group, check_representable
from setadam_core.inplace.state import Entries
from setadam_core.layers import as_array
from setadam_core.rounding import check_seed
from setadam_numpy import fused
from setadam_numpy.headers import ALIGNED, DATA, DTYPE, FLAGS, NDIM, Headers, Integers, headers
from setadam_numpy.memory import Array, NumPyMemory

Mask = Any  # a NumPy array of bool, one for each layer

_MOST_STEPS = 1 << 53  # below it, all counts are exact in float64
_AS_IN_KERNEL = [0, 3, 1, 2]  # rows of θ, g, m, v, given those of θ, m, v, g


class Plan:
    """For one optimizer. Layers are numbered in the order of its parameters.

    tasks: of the full step, one for each parameter. outline and names: of the gradients' container and its leaves.
    before: the headers of what is written. footprint: its memory.
    """

    def __init__(
        self, optimizer: InPlaceOptimizer, tasks: Sequence[Task], outline: Outline, names: Sequence[str],
        before: Headers, footprint: Footprint,
    ) -> None:  # fmt: skip
        self._outline, self._before, self._footprint = outline, before, footprint
        self._groups = [_fixed(group) for group in optimizer.param_groups]
        self._names = [name for owned, _ in self._groups for name in owned]
        # Kept alive, so that no other arrays get their ids.
        self._arrays = _written(optimizer.param_groups, _entries(optimizer.state, self._names))
        place = {name: i for i, name in enumerate(names)}
        self._order = None if self._names == list(names) else [place[name] for name in self._names]

        n = len(tasks)
        self._sizes = np.array([task.theta.size for task in tasks], np.int64)
        self._axes = np.repeat(np.arange(n), before.words[NDIM, :n])  # the layer of each axis
        bounds = np.array([_MEMORY.bounds(x) for x in self._arrays[:n]], np.int64).reshape(n, 2)
        self._bounds = bounds - before.words[DATA, :n, None]  # relative to the address of θ

        # Without the gradients, which would stay in memory. A gradient in θ's order is arranged as θ is.
        self._tasks = [task._replace(grad=task.theta) for task in tasks]
        arranged = [fused.layers_of(task) if task.theta.size else None for task in self._tasks]
        self._by_kernel = np.array([x is not None for x in arranged], bool)
        self._slices = np.array([1 if x is None else x[1] for x in arranged], np.int64)
        self._group_of = [i for i, (owned, _) in enumerate(self._groups) for _ in owned]
        self._layers: list[dict[Any, Any]] = [{} for _ in self._groups]  # of a group, one for each compute dtype
        alike: dict[tuple[int, str], list[int]] = {}
        for i, (group, task) in enumerate(zip(self._group_of, tasks, strict=True)):
            self._layers[group][task.layer.dtype] = task.layer
            if arranged[i] is not None:
                alike.setdefault((group, fused.stored(task.theta.dtype)), []).append(i)
        self._alike = {kind: np.array(layers) for kind, layers in alike.items()}  # by group and dtype, for the kernel

    @classmethod
    def of(
        cls, optimizer: InPlaceOptimizer, tasks: Sequence[Task], grads: Any, names: Sequence[str], footprint: Footprint
    ) -> "Plan | None":
        """After a full step; None if no later step could use it."""
        if any(check_seed(group["stochastic_rounding"]) is not None for group in optimizer.param_groups):
            return None  # the kernel does not update the parameters themselves
        before = headers(_written(optimizer.param_groups, _entries(optimizer.state, list(optimizer.params))))
        outline = Outline.of(grads)
        if before is None or outline is None:
            return None
        return cls(optimizer, tasks, outline, names, before, footprint)

    def step(self, optimizer: InPlaceOptimizer, grads: Any) -> bool:
        """Take the step, or return False with nothing changed."""
        groups = optimizer.param_groups
        given = self._outline.leaves(grads)
        if given is None or [_fixed(group) for group in groups] != self._groups:
            return False
        if self._order is not None:
            given = [given[i] for i in self._order]
        if set(map(type, given)) != {np.ndarray}:  # among others scalars, which 0-d arithmetic returns
            given = [_MEMORY.as_leaf(as_array(x)) for x in given]
        try:
            entries = _entries(optimizer.state, self._names)
            counts, arrays = [x["step"] for x in entries], [*_written(groups, entries), *given]
        except (KeyError, TypeError):
            return False
        now = headers(arrays)
        if now is None or not _are_counts(counts) or not self._as_before(now) or not self._fit(now, given):
            return False
        in_order = self._in_order(now)
        if self._overlaps(now, in_order, given):
            return False
        try:
            hps = [self._options(optimizer, i) for i in range(len(groups))]
        except (TypeError, ValueError):
            return False
        self._update(optimizer, now.words[DATA], in_order, given, counts, hps)
        for entry, count in zip(entries, counts, strict=True):
            entry["step"] = count + 1
        return True

    def _as_before(self, now: Headers) -> bool:
        """Whether all that is written is the same arrays, with the same headers."""
        words, lengths, strides = self._before
        n, axes = words.shape[1], len(lengths)
        return (
            np.array_equal(now.words[:, :n], words)
            and np.array_equal(now.lengths[:axes], lengths)
            and np.array_equal(now.strides[:axes], strides)
        )

    def _fit(self, now: Headers, given: Sequence[Array]) -> bool:
        """Whether the gradients have their parameters' shapes and dtypes."""
        own, other = self._before.words[:, : len(given)], now.words[:, 3 * len(given) :]
        if not np.array_equal(own[NDIM], other[NDIM]):
            return False
        if not np.array_equal(self._before.lengths[: len(self._axes)], now.lengths[len(self._before.lengths) :]):
            return False
        objects = np.flatnonzero(own[DTYPE] != other[DTYPE]).tolist()  # an unpickled dtype is an object of its own
        return all(given[i].dtype == self._arrays[i].dtype for i in objects)

    def _in_order(self, now: Headers) -> Mask:
        """Whether a gradient is aligned, and lies in memory in its parameter's order."""
        lengths, strides = (x[: len(self._axes)] for x in self._before[1:])
        other = now.strides[len(self._before.strides) :]
        found = now.words[FLAGS, len(self._before.words[0]) :] & ALIGNED != 0
        found[self._axes[(strides != other) & (lengths != 1)]] = False  # an axis of length 1 may have any stride
        return found

    def _overlaps(self, now: Headers, in_order: Mask, given: Sequence[Array]) -> bool:
        """Whether a gradient may overlap what is written. One that is its parameter may be so; it is read first."""
        n = len(given)
        address, own = now.words[DATA, 3 * n :], now.words[DATA, :n]
        bounds = self._bounds + address[:, None]
        for i in np.flatnonzero(~in_order).tolist():
            bounds[i] = _MEMORY.bounds(given[i])
        hit = self._footprint.touched_by(bounds[:, 0], bounds[:, 1])
        return bool(np.any(hit & (self._sizes > 0) & ~(in_order & (address == own))))

    def _options(self, optimizer: InPlaceOptimizer, index: int) -> Hyperparameters:
        """A group's options. TypeError or ValueError if one is not allowed."""
        hp = optimizer._check_options(optimizer.param_groups[index])
        for layer in self._layers[index].values():
            check_representable(hp, layer)
        return hp

    def _update(
        self, optimizer: InPlaceOptimizer, addresses: Integers, in_order: Mask, given: Sequence[Array],
        counts: Sequence[int], hps: Sequence[Hyperparameters],
    ) -> None:  # fmt: skip
        """The kernel's layers in one call for each dtype and set of options; the others as in a full step."""
        table, ts = addresses.reshape(4, -1)[_AS_IN_KERNEL], np.array(counts, np.float64) + 1
        batches: dict[Any, list[Integers]] = {}
        for (group, dtype), alike in self._alike.items():
            batches.setdefault((dtype, hps[group]), []).append(alike[in_order[alike]])
        for (dtype, hp), parts in batches.items():
            chosen = np.concatenate(parts)
            fused.step_at(table[:, chosen], self._sizes[chosen], self._slices[chosen], ts[chosen], hp, dtype)
        rest = np.flatnonzero((self._sizes > 0) & ~(self._by_kernel & in_order)).tolist()
        new = [{"grad": _MEMORY.real(given[i]), "t": counts[i] + 1, "hp": hps[self._group_of[i]]} for i in rest]
        optimizer._update([self._tasks[i]._replace(**parts) for i, parts in zip(rest, new, strict=True)])


_MEMORY = NumPyMemory()


def _fixed(group: Group) -> tuple[list[str], str]:
    """A group's names and the options that a plan rests on. As text, since a list may be changed in place."""
    return list(group["params"]), repr((group["layer_axes"], group["fused"], group["stochastic_rounding"]))


def _entries(states: Entries, names: Sequence[str]) -> list[Any]:
    return [states[name] for name in names]


def _written(groups: Sequence[Group], entries: Sequence[Any]) -> list[Any]:
    """What a step writes: all parameters, then all m, then all v."""
    params = [x for group in groups for x in group["params"].values()]
    return [*params, *[x["exp_avg"] for x in entries], *[x["exp_avg_sq"] for x in entries]]


def _are_counts(counts: Sequence[Any]) -> bool:
    return set(map(type, counts)) == {int} and all(0 <= count < _MOST_STEPS for count in set(counts))
