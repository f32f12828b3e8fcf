"""Stochastic rounding: the random words, the two neighbours, the probability, and the step that ends with it."""

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import given
from hypothesis import strategies as st

import setadam_core
from setadam_core import Hyperparameters, Rounding, rounding
from setadam_core.inplace.rounding import _power_of_two
from setadam_core.rounding import check_seed, random_words, round_stochastically, to_neighbours

BFLOAT16, FLOAT16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
DTYPES = pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16], ids=str)
WORDS = st.integers(0, 2**32 - 1)


def word_in_whole_numbers(seed: int, t: int, layer: int, index: int) -> int:
    """The definition of a random word again, in Python's integers."""

    def scramble(x: int, key: int = 0) -> int:
        x = ((x ^ x >> 16) * 0x85EBCA6B + key) % 2**32
        x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
        return x ^ x >> 16

    golden, keys = 0x9E3779B9, []
    for key in (0, golden):
        for word in (seed, t, layer):
            key = scramble(((word % 2**32 ^ key) + golden) % 2**32)
        keys.append(key)
    return scramble((index * golden + keys[0]) % 2**32, keys[1])


def unsigned(words: Any) -> list[int]:
    return np.asarray(words, np.int32).reshape(-1).view(np.uint32).tolist()


@given(
    seed=WORDS, t=st.integers(1, 2**53), layer=WORDS, indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=5)
)
def test_words_are_those_of_whole_numbers(seed: int, t: int, layer: int, indices: Sequence[int]) -> None:
    found = random_words(seed, t, layer, np.array(indices))
    assert unsigned(found) == [word_in_whole_numbers(seed, t, layer, index) for index in indices]


def test_words_are_what_they_were() -> None:
    """A change would give other bits to a run that is resumed."""
    assert unsigned(random_words(3, 7, 1, np.arange(4))) == [482974085, 2207812101, 3851667259, 3889537505]
    assert unsigned(random_words(2**32 - 1, 2**31, 5, np.array([2**31 + 1, 2**32 + 1]))) == [
        word_in_whole_numbers(2**32 - 1, 2**31, 5, index) for index in (2**31 + 1, 1)
    ]


def test_words_are_the_same_in_each_namespace(ns: Any) -> None:
    indices = np.array([[0, 1, 2], [70_000, 2**31 - 1, -(2**31)]], np.int32)
    expected = random_words(5, 2**31 + 3, 2, indices)
    for t in (2**31 + 3, np.array(2**31 + 3)):
        given_t = t if isinstance(t, int) else ns.array(t)
        assert np.array_equal(ns.numpy(random_words(5, given_t, 2, ns.array(indices))), expected)


def test_words_are_independent() -> None:
    """Of neighbouring indices, steps, layers and seeds: each cell of a 16 × 16 table has its share, by Pearson's χ².

    255 degrees of freedom, of which the normal approximation puts z = 6 at 1e-9. All is fixed; nothing varies.
    """
    n = 1 << 17
    indices, one = np.arange(n), random_words(1, 100, 3, np.arange(n))
    others = [random_words(1, 101, 3, indices), random_words(1, 100, 4, indices), random_words(2, 100, 3, indices)]
    others += [random_words(1, 100, 3, indices + lag) for lag in (1, 2, 16, 255, 1024, 4096, 65536)]
    for other in others:
        cells = (one.view(np.uint32) >> 28) * 16 + (other.view(np.uint32) >> 28)
        expected = n / 256
        chi2 = float(np.sum((np.bincount(cells.astype(int), minlength=256) - expected) ** 2) / expected)
        assert abs(chi2 - 255) < 6 * math.sqrt(2 * 255)


def all_between(dtype: np.dtype) -> np.ndarray:
    """Numbers of float32 of all sizes and signs between finite numbers of the dtype, the dtype's own among them."""
    rng = np.random.default_rng(3)
    own = np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float32)
    own = own[np.isfinite(own)]
    inside = own * (1 + rng.random(len(own), np.float32) * np.float32(2**-8))
    tiny = np.float32([0.0, -0.0, 1e-45, -1e-45, 1e-40, 2**-25, 2**-24 * 0.75, 2**-26 * 1.1])
    every = np.concatenate([own, inside, tiny])
    return every[np.abs(every) <= float(ml_dtypes.finfo(dtype).max)]


def neighbours(x: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The largest number of the dtype that is not above x, and the smallest that is not below, in float64."""
    nearest = x.astype(dtype)
    with np.errstate(over="ignore"):  # at the largest number
        down, up = (np.nextafter(nearest, dtype.type(side * np.inf)).astype(np.float64) for side in (-1, 1))
    wide, nearest = x.astype(np.float64), nearest.astype(np.float64)
    return np.where(nearest > wide, down, nearest), np.where(nearest < wide, up, nearest)


@DTYPES
@given(word=WORDS)
def test_result_is_one_of_two_neighbours(dtype: np.dtype, word: int) -> None:
    x = all_between(dtype)
    found = round_stochastically(x, dtype, np.full(x.shape, rounding.signed(word), np.int32)).astype(np.float64)
    low, high = neighbours(x, dtype)
    assert np.all((found == low) | (found == high))
    same = low == high
    assert np.array_equal(found[same], x[same])
    assert np.array_equal(np.signbit(found[same]), np.signbit(x[same]))


@DTYPES
def test_probability_is_the_distance_from_the_other(dtype: np.dtype) -> None:
    """The word decides by its first 24 bits: the number of them that go away from 0 is 2²⁴ times the distance."""
    x = all_between(dtype)
    low, high = neighbours(x, dtype)
    near, far = (np.where(x < 0, b, a) for a, b in ((low, high), (high, low)))
    share = np.abs(x - near) / np.where(low == high, 1, np.abs(far - near))
    least = 2**24 - np.floor(share * 2**24).astype(np.int64)  # the first word that goes away from 0
    for offset, away in ((-1, False), (0, True)):
        drawn = least + offset
        possible = (drawn >= 0) & (drawn < 2**24)
        words = (drawn[possible] << 8).astype(np.uint32).view(np.int32)
        found = round_stochastically(x[possible], dtype, words).astype(np.float64)
        assert np.array_equal(found, (far if away else near)[possible])


def test_bfloat16_is_the_sum_of_random_bits_and_a_cut() -> None:
    """The form that kernels use: 16 random bits are added to the bits of x, and the last 16 are cut off."""
    x, rng = all_between(BFLOAT16), np.random.default_rng(0)
    words = rng.integers(0, 2**32, len(x), dtype=np.uint32)
    cut = ((x.view(np.uint32) + (words >> 16)) & 0xFFFF0000).view(np.float32)
    assert np.array_equal(round_stochastically(x, BFLOAT16, words.view(np.int32)).astype(np.float32), cut)


@DTYPES
def test_beyond_the_largest_number_is_rounded_to_nearest(dtype: np.dtype) -> None:
    largest = float(ml_dtypes.finfo(dtype).max)
    x = np.float32([np.nan, np.inf, -np.inf, largest, -largest, np.nextafter(np.float32(largest), np.inf)])
    for word in (0, -1):
        with np.errstate(all="ignore"):
            found = round_stochastically(x, dtype, np.full(x.shape, word, np.int32))
        assert np.array_equal(found.view(np.uint16), x.astype(dtype).view(np.uint16))


def test_neighbours_are_the_same_in_each_namespace(ns: Any) -> None:
    x, rng = all_between(FLOAT16), np.random.default_rng(1)
    words = rng.integers(-(2**31), 2**31, len(x), dtype=np.int32)
    for dtype in (FLOAT16, BFLOAT16):
        own, taken = ns.array(x), ns.array(words)
        found = ns.numpy(to_neighbours(own, str(dtype), taken, array_namespace(own)))
        expected = to_neighbours(x, str(dtype), words, array_namespace(x))
        normal = np.abs(expected) >= 2.0**-126  # a namespace may flush subnormal numbers
        assert np.array_equal(found[normal], expected[normal])


@DTYPES
def test_powers_of_two_from_bits(dtype: np.dtype) -> None:
    x = all_between(dtype)
    xp, size = array_namespace(x), np.abs(x)
    for least in (2.0**-126, 2.0**-14):
        assert np.array_equal(_power_of_two(size, least, xp), rounding.power_of_two_below(size, least, xp))


def one_step(shape: tuple[int, ...], dtype: str, layers: Any, **options: Any) -> Any:
    param, grad = layers.normal(shape, dtype), layers.normal(shape, dtype, seed=1)
    state = setadam_core.State(*layers.state(param), 4)
    return setadam_core.step(param, grad, state, Hyperparameters(), **options)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (0, 2)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_step_rounds_what_the_wide_step_returns(dtype: str, shape: tuple[int, ...], layers: Any) -> None:
    param, grad = layers.normal(shape, dtype), layers.normal(shape, dtype, seed=1)
    m, v = layers.state(param)
    found, _ = setadam_core.step(param, grad, setadam_core.State(m, v, 4), Hyperparameters(), rounding=Rounding(9, 2))
    wide, _ = setadam_core.step(
        param.astype(np.float32), grad.astype(np.float32), setadam_core.State(m, v, 4), Hyperparameters()
    )
    indices = np.arange(wide.size).reshape(shape)
    expected = round_stochastically(wide, param.dtype, random_words(9, 5, 2, indices))
    assert found.dtype == param.dtype
    assert np.array_equal(found, expected)


def test_part_of_a_parameter_is_rounded_as_in_the_whole() -> None:
    x, indices = np.linspace(1, 2, 12, dtype=np.float32).reshape(3, 4), np.arange(12).reshape(3, 4)
    whole = Rounding(1, 2).round(x, BFLOAT16, 3)
    columns = Rounding(1, 2, indices[:, 1:3]).round(x[:, 1:3], BFLOAT16, 3)
    assert np.array_equal(columns, whole[:, 1:3])


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_wider_parameters_are_not_concerned(dtype: str, layers: Any) -> None:
    plain, rounded = (one_step((4,), dtype, layers, **more)[0] for more in ({}, {"rounding": Rounding(0)}))
    assert np.array_equal(plain, rounded)


def test_small_steps_are_not_lost() -> None:
    """A step of 1e-3 is less than half the distance of bfloat16's numbers at 1: rounded to nearest, θ stays there."""
    results = {}
    for name, how in (("nearest", None), ("stochastic", Rounding(0))):
        param = np.ones(1000, BFLOAT16)
        state, grad = setadam_core.init(param), np.ones_like(param)
        for _ in range(20):
            param, state = setadam_core.step(param, grad, state, Hyperparameters(lr=1e-3, tau=0), rounding=how)
        results[name] = param.astype(np.float64)
    assert np.all(results["nearest"] == 1)
    # 20,000 draws of two neighbours that are at most 2⁻⁷ apart. By Hoeffding, the mean of the 1000 sums is within
    # 2⁻⁷ √(20 ln(2/1e-9)/(2·1000)) of what it is on average, but for one seed in 1e9.
    apart = 2**-7 * math.sqrt(20 * math.log(2e9) / 2000)
    assert abs(results["stochastic"].mean() - (1 - 20e-3)) < apart + 1e-5


@pytest.mark.parametrize(
    ("value", "seed"), [(False, None), (np.False_, None), (True, 0), (0, 0), (np.int64(3), 3), (2**32 - 1, 2**32 - 1)]
)
def test_seeds(value: Any, seed: int | None) -> None:
    assert check_seed(value) == seed


@pytest.mark.parametrize("value", [-1, 2**32, 1.0, "1", None])
def test_other_seeds_are_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^stochastic_rounding must be.*got {value!r}$"):
        check_seed(value)
