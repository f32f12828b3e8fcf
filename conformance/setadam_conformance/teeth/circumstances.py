"""Seeded faults made from the table of dimensions: a step that is right except where one class occurs, or two meet.

There is one for each class, and one for each pair of classes that can meet. Each returns 7 for all of m, v and θ of the
layer that has the classes, or its old t if it is empty. It reads the classes from the call (`cases.reading`), as a run
does to measure what it reached.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.cases.dimensions import TABLE, classes, pairs
from setadam_conformance.cases.reading import classes_in
from setadam_conformance.protocol import LayerState
from setadam_conformance.teeth.examples import cells, examples, fails
from setadam_conformance.teeth.faults.declare import ALL_DTYPES
from setadam_conformance.teeth.reference import Reference

Item = tuple[str, str]
Group = tuple[str, ...]  # one dimension or two


@dataclass(frozen=True)
class Seeded:
    """A fault that shows only where all of these classes meet."""

    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        return " with ".join(f"{name} {c}" for name, c in self.items)

    @property
    def group(self) -> Group:
        """Its dimensions."""
        return tuple(name for name, _ in self.items)

    def adapter(self) -> Reference:
        return _Wrong(self.items)

    def is_rejected(self, profile: str = "quick") -> bool:
        """Whether one of the profile's rows of the table rejects it, in any dtype.

        Examples that do not have the classes are left out: there, the step is the reference's own, which none rejects.
        """
        adapter = self.adapter()
        return any(
            fails(adapter, cell, example) is not None
            for cell, example, found in _examples(profile)
            if any(_has(row, self.items) for row in found)
        )


def _has(row: Mapping[str, str], items: tuple[Item, ...]) -> bool:
    return all(row[name] == c for name, c in items)


@cache
def _examples(profile: str) -> list[tuple[Any, Case, list[dict[str, str]]]]:
    """The profile's rows of the table: the cell, the example, and the classes that are read from it."""
    return [
        (cell, case, classes_in(case))
        for dtype in ALL_DTYPES
        for cell in cells(profile, dtype)
        if cell.strength
        for case in examples(cell)
    ]


class _Wrong(Reference):
    def __init__(self, items: tuple[Item, ...]) -> None:
        super().__init__()
        self.items = items

    def step(self, params: Any, grads: Any, states: Any, hp: Any, layer_axes: Any) -> Any:
        new, after = super().step(params, grads, states, hp, layer_axes)
        layers = tuple(
            LayerCase(p, g, s.m, s.v, axes) for p, g, s, axes in zip(params, grads, states, layer_axes, strict=True)
        )
        case = Case(str(params[0].real.dtype), layers, states[0].t, dict(hp))
        for row in classes_in(case):
            if _has(row, self.items):
                i = 0 if row["place"] == "first" else -1
                new[i] = np.full_like(new[i], 7)
                wrong_t = states[i].t if new[i].size == 0 else after[i].t
                after[i] = LayerState(np.full_like(after[i].m, 7), np.full_like(after[i].v, 7), wrong_t)
        return new, after


def seeded() -> Iterator[Seeded]:
    """A fault for each class, and for each pair of classes that can meet."""
    for name, dimension in TABLE.items():
        yield from (Seeded(((name, c),)) for c in dimension.classes)
    yield from map(Seeded, pairs(classes(Reference.capabilities, ALL_DTYPES)))


@cache
def groups() -> dict[Group, list[Seeded]]:
    """The faults by their dimensions."""
    found: dict[Group, list[Seeded]] = {}
    for fault in seeded():
        found.setdefault(fault.group, []).append(fault)
    return found
