"""Whether roundings are random, and right on average: tests of many draws, with a stated chance to be wrong.

docs/bound.md, "Stochastic rounding", derives the limits.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import log, sqrt
from typing import NamedTuple

import numpy as np

from setadam_conformance.cases.formats import Format, Wide, neighbours
from setadam_conformance.judging.oracle import Reference
from setadam_conformance.protocol import NumPyArray

CHANCE = 1e-9  # of a correct generator to fail all tests of one call of `refuted` together, at most
_LEAST_DRAWN = 2.0**-24  # to which a probability may be rounded
_BINS = 8


class Draws(NamedTuple):
    """The roundings of some coordinates. Flat arrays, one entry for each coordinate."""

    up: NumPyArray  # whether it was the upper neighbour
    share: Wide  # the probability of that: the distance of the exact value from the lower one, over that of the two
    error: Wide  # how far from it the probability of a correct backend may be
    negative: NumPyArray  # whether the exact value is
    usable: NumPyArray  # whether both neighbours are known: no number of the format is within the bound

    def at(self, where: slice) -> "Draws":
        return Draws(*(x[where] for x in self))


def draws(reference: Reference, got: NumPyArray, to: Format) -> Draws:
    """The roundings of one array to a format, from the reference before them."""
    value, bound = (np.asarray(x, np.float64).ravel() for x in (reference.value, reference.bound))
    low, high = neighbours(value, to)
    certain = (neighbours(value - bound, to)[0] == low) & (neighbours(value + bound, to)[1] == high) & (low < high)
    apart = np.where(certain, high - low, 1.0)
    up = got.astype(np.float64).ravel() == high
    usable = certain & np.broadcast_to(reference.judged, got.shape).ravel()
    return Draws(up, (value - low) / apart, bound / apart + _LEAST_DRAWN, value < 0, usable)


def refuted(sets: Sequence[Draws], pairs: Mapping[str, tuple[Draws, Draws]]) -> str:
    """What the draws of a correct backend would do less than once in 1/CHANCE seeds; empty if there is nothing.

    sets: each of independent draws, and independent of each other. pairs: of draws that must be independent of each
    other, coordinate by coordinate, by what tells the two apart.
    """
    together = Draws(*(np.concatenate(x) for x in zip(*sets, strict=True)))
    means, products = list(_means(together)), list(_products(pairs))
    tests = len(means) + len(products)
    for what, total, tolerance, squares in means:
        limit = tolerance + sqrt(squares * log(2 * tests / CHANCE) / 2)
        if abs(total) > limit:
            return f"{what}, {total:+.0f} more than on average were rounded up, and {limit:.0f} are allowed"
    for what, total, tolerance, count in products:
        limit = tolerance + sqrt(2 * count * log(2 * tests / CHANCE))
        if abs(total) > limit:
            return f"roundings that differ in {what} are correlated: {total:+.0f}, and {limit:.0f} is allowed"
    return ""


def _means(draws: Draws) -> Iterator[tuple[str, float, float, float]]:
    """Sums of draws less what they are on average: what, the sum, what the bound allows, and the number of draws."""
    off = draws.up - draws.share
    bins = np.minimum((draws.share * _BINS).astype(int), _BINS - 1)
    parts = {"of all coordinates": draws.usable}
    parts |= {"of positive numbers": draws.usable & ~draws.negative, "of negative": draws.usable & draws.negative}
    for i in range(_BINS):
        parts[f"of those from {i}/{_BINS} to {i + 1}/{_BINS} of the way up"] = draws.usable & (bins == i)
    for what, part in parts.items():
        yield what, float(np.sum(off[part])), float(np.sum(draws.error[part])), float(np.sum(part))


def _products(pairs: Mapping[str, tuple[Draws, Draws]]) -> Iterator[tuple[str, float, float, float]]:
    """Sums of products of two draws, each less what it is on average."""
    for what, (a, b) in pairs.items():
        both = a.usable & b.usable
        product = ((a.up - a.share) * (b.up - b.share))[both]
        of_signs = np.where(a.negative == b.negative, 1, -1)[both]  # the same number may mean up, or away from 0
        for sign in (1, of_signs):
            yield what, float(np.sum(sign * product)), float(np.sum((a.error * b.error)[both])), float(np.sum(both))
