"""Rows of the table of dimensions, drawn so that every class, or every pair of classes that can meet, occurs.

A greedy covering design: each row starts with a pair that has not met yet, and takes for every other dimension the
class that meets most of the classes so far for the first time. The seed decides between equals.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np

from setadam_conformance.cases.dimensions import Row, classes, fit, hides, is_readable, pairs
from setadam_conformance.protocol import Capabilities

_TRIES = 4  # rows among which the best is taken


class Coverage:
    """Which classes and pairs have met, of those that are allowed."""

    def __init__(self, allowed: Mapping[str, tuple[str, ...]], rows: Iterable[Row] = ()) -> None:
        self.classes = frozenset((name, c) for name, cs in allowed.items() for c in cs)
        self.pairs = frozenset(pairs(allowed))
        met_classes: set[tuple[str, str]] = set()
        met_pairs: set[tuple[tuple[str, str], tuple[str, str]]] = set()
        for row in rows:
            items = [(name, row[name]) for name in allowed]
            hiding = set(filter(hides, items))
            met_classes.update([item for item in items if hides(item, 1)] or items)
            met_pairs.update(pair for pair in combinations(items, 2) if not hiding or hiding.intersection(pair))
        self.met_classes = self.classes & met_classes
        self.met_pairs = self.pairs & met_pairs


def design(claims: Capabilities, dtypes: tuple[str, ...], strength: int, seed: int) -> tuple[dict[str, str], ...]:
    """Rows in which every class (strength 1) or every pair (strength 2) occurs that the claims allow in the dtypes."""
    allowed = classes(claims, dtypes)
    return _design(tuple(allowed.items()), strength, seed)


@lru_cache(maxsize=64)
def _design(allowed: tuple[tuple[str, tuple[str, ...]], ...], strength: int, seed: int) -> tuple[dict[str, str], ...]:
    names = [name for name, _ in allowed]
    items = [(name, c) for name, cs in allowed for c in cs]
    index = {item: i for i, item in enumerate(items)}
    of = [np.array([index[name, c] for c in cs]) for name, cs in allowed]
    fits = np.array([[a[0] != b[0] and fit(a, b) for b in items] for a in items])
    hiding = np.array([hides(item, strength) for item in items])
    rng = np.random.default_rng(seed)
    if strength == 1:
        left = np.ones(len(items), bool)
        start = [(i,) for i in rng.permutation(len(items))]
    else:
        left = fits.copy()
        upper = np.argwhere(np.triu(fits))
        start = [tuple(pair) for pair in upper[rng.permutation(len(upper))]]
    rows = []
    for first in start:
        if not left[first]:
            continue
        best: tuple[float, list[int]] = (-1.0, [])
        for _ in range(_TRIES):
            chosen = _complete(list(first), items, of, fits, hiding, left, rng)
            if chosen is not None:
                seen = [i for i in chosen if hiding[i]] or chosen
                news = float(left[seen].sum() if strength == 1 else left[np.ix_(seen, chosen)].sum())
                best = max(best, (news, chosen), key=lambda x: x[0])
        if not best[1]:
            raise ValueError(f"no row has {[items[i] for i in first]}: the table of dimensions contradicts itself")
        seen = [i for i in best[1] if hiding[i]] or best[1]
        if strength == 1:
            left[seen] = False
        else:
            left[np.ix_(seen, best[1])] = left[np.ix_(best[1], seen)] = False
        chosen_items = dict(items[i] for i in best[1])
        rows.append({name: chosen_items[name] for name in names})
    return tuple(rows)


def _complete(
    chosen: list[int],
    items: Sequence[tuple[str, str]],
    of: Sequence[np.ndarray],
    fits: np.ndarray,
    hiding: np.ndarray,
    left: np.ndarray,
    rng: np.random.Generator,
) -> list[int] | None:
    """The row with a class of every dimension, or None if a dimension has no class that fits. A class that hides
    others is there only if it is chosen.
    """
    taken = set(chosen)
    counted = [i for i in chosen if hiding[i]]
    for _ in range(8):
        row = list(chosen)
        for k in rng.permutation(len(of)):
            mine = of[k]
            if taken.intersection(mine.tolist()):
                continue
            so_far = dict(items[i] for i in row)
            readable = [is_readable({**so_far, items[i][0]: items[i][1]}) for i in mine.tolist()]
            mine = mine[np.array(readable, bool) & ~hiding[mine] & fits[np.ix_(mine, row)].all(axis=1)]
            if not len(mine):
                break
            news = left[mine].astype(int) if left.ndim == 1 else left[np.ix_(mine, counted or row)].sum(axis=1)
            best = mine[news == news.max()]
            row.append(int(best[rng.integers(len(best))]))
        else:
            return row
    return None
