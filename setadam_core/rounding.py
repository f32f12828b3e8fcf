"""Stochastic rounding of 16-bit parameters, with random numbers that are a function of where and when they are used.

A step that is smaller than half the distance between two bfloat16 numbers is lost by rounding to nearest, step after
step. Here x becomes one of its two neighbours, each with a probability that grows with its nearness, so that the
expected value is x. A random word belongs to four numbers, each taken modulo 2³²:

    seed     of the run
    t        the number of the step, from 1
    layer    the parameter's index in its optimizer
    index    the coordinate's index in the whole parameter, in C order

So nothing but the seed and t has to be kept, and neither threads, blocks, shards nor the order of layers change a bit.
Generators that are functions of a counter: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011. This
one is two keys of three words each, and one scrambling of 32 bits for each coordinate.

Arrays of any Array-API namespace. A word is an integer of 32 bits whose products and sums wrap. Signed and unsigned
words give the same bits.
"""

from collections.abc import Callable, Sequence
from math import prod
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from setadam_core.hyperparameters import is_array_scalar

Array = Any

# Significant bits, and the exponent of the smallest normal number.
FORMATS = {"bfloat16": (8, -126), "float16": (11, -14)}

_GOLDEN = 0x9E3779B9  # 2³²/φ, an odd number without a pattern: neighbouring indices become distant words
_FIRST, _SECOND = 0x85EBCA6B, 0xC2B2AE35  # the multipliers of MurmurHash3's last step (A. Appleby)
_JUMPS = (64, 32, 16, 8, 4, 2, 1)  # from 1 to the last power of two in float32, or from the first one past 1
_DRAWN = 24  # the bits of a word that are used: as many as float32 holds


class Rounding(NamedTuple):
    """Whose random words round a parameter: those of a seed, and of the parameter's index in its optimizer.

    indices: the `index` of each coordinate, an integer array of the parameter's shape, if this is a part of a whole.
    """

    seed: int
    layer: int = 0
    indices: Array | None = None

    def round(self, x: Array, dtype: Any, t: Any) -> Array:
        """Of a 16-bit dtype: x in step t, float32, as numbers that the dtype holds exactly. Of another: x itself."""
        xp, name = array_namespace(x), _name(dtype)
        if name not in FORMATS:
            return x
        indices = all_indices(x) if self.indices is None else self.indices
        return to_neighbours(x, name, random_words(self.seed, t, self.layer, indices), xp)


def check_seed(value: Any) -> int | None:
    """The seed that the option ``stochastic_rounding`` asks for: 0 for True, and None for False, rounding to nearest.

    TypeError or ValueError for anything but a bool, or an int in [0, 2³²).
    """
    if isinstance(value, bool | np.bool_):
        return 0 if value else None
    if not isinstance(value, Integral):
        raise TypeError(f"stochastic_rounding must be True, False or a seed, an int, got {value!r}")
    seed = int(value)
    if not 0 <= seed < 2**32:
        raise ValueError(f"stochastic_rounding must be a seed in [0, 2**32), got {seed}")
    return seed


def round_stochastically(x: Array, dtype: Any, words: Array) -> Array:
    """Numbers x, float32, in a 16-bit dtype: one of the two neighbours of each; itself, if the dtype holds it.

    With q the distance from the neighbour that is nearer to 0, in units of the distance between the two, the other
    neighbour has the probability q, rounded down to a multiple of 2⁻²⁴. (Only for |x| < 2⁻²⁵ in float16 is there
    something to round down.) NaN, and what is beyond the dtype's largest number, is rounded to nearest.
    """
    xp = array_namespace(x)
    return xp.astype(to_neighbours(x, _name(dtype), words, xp), dtype)


def to_neighbours(
    x: Array, name: str, words: Array, xp: Any, power_of_two: Callable[..., Array] | None = None
) -> Array:
    """`round_stochastically`, as float32 numbers that the dtype of this name holds exactly. Each operation is exact.

    power_of_two: a faster `power_of_two_below`.
    """
    bits, exponent = FORMATS[name]
    largest = (2 - 2.0 ** (1 - bits)) * 2.0 ** (1 - exponent)
    size = xp.abs(x)
    power = (power_of_two or power_of_two_below)(size, 2.0**exponent, xp)
    scaled = x / power * 2.0 ** (bits - 1)  # so neighbours are whole numbers
    near = xp.trunc(scaled)  # the one that is nearer to 0
    threshold = 2.0**_DRAWN - xp.floor(xp.abs(scaled - near) * 2.0**_DRAWN)
    drawn = xp.astype(_shifted(words, 32 - _DRAWN), x.dtype)
    chosen = xp.where(drawn >= threshold, near + xp.sign(scaled), near)
    return xp.where(size < largest, chosen * 2.0 ** (1 - bits) * power, x)


def power_of_two_below(size: Array, least: float, xp: Any) -> Array:
    """The largest power of two that is not above size, but ``least`` if that is larger. (The standard has no frexp.)"""
    power = xp.where(size < 1, xp.full_like(size, least), xp.ones_like(size))
    for exponent in _JUMPS:
        higher = power * 2.0**exponent
        power = xp.where(higher <= size, higher, power)
    return power


def random_words(seed: Any, t: Any, layer: Any, indices: Array) -> Array:
    """The words of coordinates by their indices, as int32. t: an int, or an integer array of shape ()."""
    xp = array_namespace(indices)
    flat = xp.reshape(xp.astype(indices, xp.int32), (-1,))  # NumPy warns of wrapping 0-d numbers
    place = {"dtype": xp.int32, "device": device(indices)}
    return xp.reshape(mixed(flat, *keys([_as_word(x, xp, place) for x in (seed, t, layer)])), indices.shape)


def mixed(indices: Array, first: Any, second: Any) -> Array:
    """The words of indices, int32, under two keys."""
    return scramble(indices * signed(_GOLDEN) + first, second)


def keys(words: Sequence[Array]) -> tuple[Array, Array]:
    """Two words that depend on each of some words: they are taken in turn, from two beginnings."""
    first: Any = 0
    second: Any = signed(_GOLDEN)
    for word in words:
        first, second = (scramble((word ^ key) + signed(_GOLDEN)) for key in (first, second))
    return first, second


def scramble(x: Array, key: Any = 0) -> Array:
    """A bijection of words in which each bit of x changes about half of the bits of the result."""
    x = (x ^ _shifted(x, 16)) * signed(_FIRST) + key
    x = (x ^ _shifted(x, 13)) * signed(_SECOND)
    return x ^ _shifted(x, 16)


def all_indices(x: Array) -> Array:
    """The index of each coordinate of a whole parameter: int32, modulo 2³², of x's shape."""
    xp = array_namespace(x)
    size = prod(x.shape)
    dtype = xp.int32 if size <= 2**31 else xp.int64
    return xp.reshape(xp.arange(size, dtype=dtype, device=device(x)), x.shape)


def _name(dtype: Any) -> str:
    """``bfloat16`` for ``torch.bfloat16``, and for a class of NumPy's numbers."""
    return getattr(dtype, "__name__", str(dtype).rpartition(".")[2])


def signed(word: int) -> int:
    """The int32 with the bits of a word in [0, 2³²)."""
    return (word + 2**31) % 2**32 - 2**31


def _shifted(x: Array, n: int) -> Array:
    """The word x >> n, into which zeros come, also if it is signed."""
    return (x >> n) & (2 ** (32 - n) - 1)


def _as_word(x: Any, xp: Any, place: Any) -> Array:
    """A number as a word in an array of one."""
    if is_array_scalar(x):
        return xp.reshape(xp.astype(x, xp.int32), (1,))
    return xp.asarray([signed(int(x) % 2**32)], **place)
