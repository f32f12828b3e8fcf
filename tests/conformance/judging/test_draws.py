"""The tests of many draws: they accept a right generator, for many seeds, at the limits that docs/bound.md derives."""

import math

import numpy as np
import pytest

from setadam_conformance.cases.formats import FORMATS, neighbours
from setadam_conformance.judging.draws import CHANCE, Draws, draws, refuted
from setadam_conformance.judging.oracle import Reference

SMALL = 2.0**-20


def drawn(up, share, error=0.0, negative=False):
    n = len(share)
    return Draws(np.asarray(up), np.asarray(share), np.full(n, error), np.full(n, negative), np.ones(n, bool))


def fair(seed, n=4096):
    rng = np.random.default_rng(seed)
    share = rng.random(n)
    return drawn(rng.random(n) < share, share)


def test_right_generators_pass():
    for seed in range(200):
        one, other = fair([seed, 0]), fair([seed, 1])
        assert refuted([one, other], {"the seed": (one, other)}) == ""


def test_limit_is_hoeffdings():
    """Of n draws at a share of ½, all in one bin: one more than the limit is refused, one less is not."""
    n, tests = 4096, 11  # the sums of `_means`
    limit = math.sqrt(n * math.log(2 * tests / CHANCE) / 2)
    for excess, passes in ((math.floor(limit), True), (math.floor(limit) + 1, False)):
        up = np.zeros(n, bool)
        up[: n // 2 + excess] = True
        assert (refuted([drawn(up, np.full(n, 0.5))], {}) == "") is passes


def test_the_bound_of_the_step_is_allowed_for():
    """Where each probability may be off by 0.1, so may be the mean."""
    n = 4096
    up = np.zeros(n, bool)
    up[: int(0.59 * n)] = True
    assert refuted([drawn(up, np.full(n, 0.5))], {}) != ""
    assert refuted([drawn(up, np.full(n, 0.5), error=0.1)], {}) == ""


@pytest.mark.parametrize(("up", "what"), [
    (lambda share, u, negative: share > 0.5, "of the way up"),
    (lambda share, u, negative: np.ones(len(share), bool), "of all coordinates"),
    (lambda share, u, negative: negative, "of positive numbers"),
    (lambda share, u, negative: u < share + 0.05, "of all coordinates"),
])  # fmt: skip
def test_bias_is_named(up, what):
    rng, n = np.random.default_rng(0), 1 << 15
    share, negative = rng.random(n), np.arange(n) % 2 == 0
    found = drawn(up(share, rng.random(n), negative), share)._replace(negative=negative)
    assert what in refuted([found], {})


@pytest.mark.parametrize("turned", [False, True])
def test_a_number_that_is_used_twice_is_seen(turned):
    """Also if it means up for one coordinate, and away from 0 for the other."""
    rng, n = np.random.default_rng(0), 1 << 14
    negative = np.arange(n) % 2 == 0
    shares, u = rng.random((2, n)), rng.random(n)
    first = drawn(u < shares[0], shares[0])._replace(negative=negative & turned)
    second = drawn(np.where(negative & turned, u > 1 - shares[1], u < shares[1]), shares[1])
    assert "correlated" in refuted([first, second], {"the layer": (first, second)})


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_neighbours_are_the_formats_own(name):
    to = FORMATS[name]
    own = np.arange(2**16, dtype=np.uint16).view(to.numpy).astype(np.float64)
    own = np.unique(own[np.isfinite(own)])
    assert all(np.array_equal(side, own) for side in neighbours(own, to))
    middle = (own[1:] + own[:-1]) / 2
    low, high = neighbours(middle, to)
    assert np.array_equal(low, own[:-1])
    assert np.array_equal(high, own[1:])


def test_only_coordinates_with_known_neighbours_count():
    """A number of the format within the bound leaves open which the neighbours are."""
    to = FORMATS["bfloat16"]
    value, bound = np.array([1.002, 1.002, 1.0, 1.002]), np.array([SMALL, 0.01, SMALL, SMALL])
    judged = np.array([True, True, True, False])
    got = np.array([1.0078125, 1.0, 1.0, 1.0], np.float32)
    found = draws(Reference(value, bound, judged), got, to)
    assert found.usable.tolist() == [True, False, False, False]
    assert found.up[0]
    assert found.share[0] == pytest.approx(0.002 * 128)
    assert found.error[0] == pytest.approx(SMALL * 128 + 2**-24)
