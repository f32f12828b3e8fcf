"""Seeded faults made from the table of dimensions: a step that is right except where one class occurs, or two meet.

There is one for each class, and one for each pair of dimensions, with classes that can meet. Each returns 7 for all of
m, v and θ of the layer that has the classes. Classes that a call does not show (magnitudes, its place) have none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.cases.dimensions import TABLE, fit, plainest
from setadam_conformance.cases.rows import classes_of
from setadam_conformance.teeth.examples import cells, rejected
from setadam_conformance.teeth.faults.declare import ALL_DTYPES
from setadam_conformance.teeth.reference import Reference

_UNREADABLE = {"magnitude", "values", "least", "theta", "place", "shape"}
Item = tuple[str, str]


@dataclass(frozen=True)
class Seeded:
    """A fault that shows only where all of these classes meet."""

    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        return " with ".join(f"{name} {c}" for name, c in self.items)

    def adapter(self) -> Reference:
        return _Wrong(self.items)

    def is_rejected(self) -> bool:
        """Whether the quick profile's rows of the table reject it, in any dtype."""
        return any(
            rejected(self.adapter(), cell, stop=True)[0]
            for dtype in ALL_DTYPES
            for cell in cells("quick", dtype)
            if cell.strength
        )


class _Wrong(Reference):
    def __init__(self, items: tuple[Item, ...]) -> None:
        super().__init__()
        self.items = items

    def step(self, params: Any, grads: Any, states: Any, hp: Any, layer_axes: Any) -> Any:
        new, after = super().step(params, grads, states, hp, layer_axes)
        layers = tuple(
            LayerCase(p, g, s.m, s.v, axes) for p, g, s, axes in zip(params, grads, states, layer_axes, strict=True)
        )
        dtype = str(params[0].real.dtype)
        for i, place in {len(layers) - 1: "last", 0: "first"}.items():
            row = classes_of(Case(dtype, layers, states[0].t, dict(hp), {"classes": {**plainest(), "place": place}}))
            if all(row[name] == c for name, c in self.items):
                new[i] = np.full_like(new[i], 7)
                after[i] = after[i]._replace(m=np.full_like(after[i].m, 7), v=np.full_like(after[i].v, 7))
        return new, after


def of_classes() -> Iterator[Seeded]:
    """A fault for each class that can be read from a call."""
    for name, dimension in TABLE.items():
        if name not in _UNREADABLE:
            yield from (Seeded(((name, c),)) for c in dimension.classes)


def of_pairs(seed: int = 0) -> Iterator[Seeded]:
    """A fault for each pair of dimensions: two classes that can meet, neither of them the plainest if possible."""
    rng = np.random.default_rng(seed)
    names = [name for name in TABLE if name not in _UNREADABLE]
    for a, b in combinations(names, 2):
        pairs = [((a, x), (b, y)) for x in TABLE[a].classes for y in TABLE[b].classes if fit((a, x), (b, y))]
        rare = [p for p in pairs if all(c != plainest()[name] for name, c in p)] or pairs
        yield Seeded(rare[int(rng.integers(len(rare)))])
