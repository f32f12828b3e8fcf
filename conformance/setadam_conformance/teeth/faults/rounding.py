"""Seeded faults in stochastic rounding. The first kind claims random bits of its own, so that only the tests of many
draws, and of the neighbours, can reject it. The second claims the specification's bits.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from setadam_conformance.cases.formats import FORMATS, neighbours
from setadam_conformance.protocol import NumPyArray
from setadam_conformance.teeth.faults.declare import SIXTEEN_BIT, kind
from setadam_conformance.teeth.reference import Layer
from setadam_conformance.teeth.rounded import Rounded

R = Rounded


class _OwnBits(Rounded):
    capabilities = replace(Rounded.capabilities, stochastic_rounding="any")


_WHY = "the others are not rounded stochastically"
fault = kind("stochastic rounding", _OwnBits)


def _fault(name: str, what: str, **overrides: Any) -> None:
    fault(name, what, SIXTEEN_BIT, _WHY, **overrides)


_fault("rounding-up", "always to the upper neighbour", choose=lambda s, c, x, dtype, _: _one_side(x, dtype, 1))
_fault("rounding-down", "always to the lower neighbour", choose=lambda s, c, x, dtype, _: _one_side(x, dtype, 0))
_fault(
    "rounding-to-nearest", "to the nearest neighbour: the seed is ignored", round=lambda s, c, x, dtype: x.astype(dtype)
)
_fault(
    "rounding-towards-0", "always to the neighbour that is nearer to 0", goes_away=lambda s, c, share, drawn: share < 0
)
_fault("rounding-away-from-0", "always away from 0", goes_away=lambda s, c, share, drawn: share > 0)
_fault(
    "rounding-even-chance",
    "each neighbour has the probability ½",
    goes_away=lambda s, c, share, drawn: (drawn >= 2**23) & (share > 0),
)
_fault(
    "rounding-swapped",
    "the nearer neighbour has the probability of the other",
    goes_away=lambda s, c, share, drawn: R.goes_away(s, c, 1 - share, drawn) & (share > 0),
)
_fault(
    "rounding-4-bits",
    "four random bits, which make probabilities too small by up to 1/16",
    goes_away=lambda s, c, share, drawn: drawn // 2**20 >= 16 - np.floor(share * 16),
)
_fault(
    "rounding-noise",
    "noise of a whole distance to both sides, and then to nearest: also to numbers that are no neighbours",
    choose=lambda s, c, x, dtype, drawn: _noisy(x, dtype, drawn),
)
_fault(
    "rounding-twice",
    "θ is rounded stochastically, then half the update is added again, to nearest",
    round=lambda s, c, x, dtype: (R.round(s, c, x, dtype) + (x - s.parts(c.given[0])) / 2).astype(dtype),
)
_fault("rounding-same-in-each-step", "the same bits in each step", key=lambda s, c: (R.key(s, c)[0], 1, R.key(s, c)[2]))
_fault("rounding-same-in-all-layers", "the same bits in all layers", key=lambda s, c: (*R.key(s, c)[:2], 0))
_fault("rounding-same-for-all-seeds", "the seed only switches it on", key=lambda s, c: (0, *R.key(s, c)[1:]))
_fault("rounding-same-for-a-layer", "one random number for a layer", indices=lambda s, c, x: R.indices(s, c, x) * 0)
_fault(
    "rounding-same-for-two", "one random number for two coordinates", indices=lambda s, c, x: R.indices(s, c, x) // 2
)
_fault(
    "rounding-from-a-stream",
    "the generator goes on from call to call",
    choose=lambda s, c, x, dtype, drawn: R.choose(s, c, x, dtype, _stream(s).integers(0, 2**24, x.shape)),
)

fault = kind("specified random bits", Rounded)
_fault("bits-of-t-before", "t is that of the step before", key=lambda s, c: (s.seed or 0, c.t - 1, R.key(s, c)[2]))
_fault("bits-of-layers-from-1", "layers are counted from 1", key=lambda s, c: (*R.key(s, c)[:2], R.key(s, c)[2] + 1))
_fault(
    "bits-of-last-layer",
    "layers are counted from the last",
    key=lambda s, c: (*R.key(s, c)[:2], len(c.call) - 1 - R.key(s, c)[2]),
)
_fault("bits-of-16-bit-t", "t is a word of 16 bits", key=lambda s, c: (R.key(s, c)[0], c.t % 2**16, R.key(s, c)[2]))
_fault(
    "bits-of-31-bit-seed", "a seed is a word of 31 bits", key=lambda s, c: (R.key(s, c)[0] % 2**31, *R.key(s, c)[1:])
)
_fault(
    "bits-in-fortran-order",
    "coordinates are counted in Fortran's order",
    indices=lambda s, c, x: R.indices(s, c, x.T).T,
)
_fault(
    "bits-in-memory-order", "coordinates are counted as they lie in memory", indices=lambda s, c, x: _in_memory(c, x)
)
_fault("bits-in-each-row", "with layer_axes, each layer is counted from 0", indices=lambda s, c, x: _in_layers(c, x))
_fault(
    "bits-in-each-block",
    "each block of 4096 coordinates is counted from 0",
    indices=lambda s, c, x: R.indices(s, c, x) % 4096,
)
_fault(
    "bits-one-off",
    "> in place of ≥, a probability that is less by 2⁻²⁴",
    goes_away=lambda s, c, share, drawn: drawn > 2**24 - np.floor(share * 2**24),
)
_fault(
    "bits-8",
    "eight random bits",
    goes_away=lambda s, c, share, drawn: drawn // 2**16 >= 256 - np.floor(share * 256),
)
_fault(
    "bits-turned",
    "up in place of away from 0",
    choose=lambda s, c, x, dtype, drawn: np.where(
        x < 0, -R.choose(s, c, np.abs(x), dtype, 2**24 - 1 - drawn), R.choose(s, c, x, dtype, drawn)
    ),
)


def _one_side(x: NumPyArray, dtype: Any, side: int) -> NumPyArray:
    to = FORMATS[str(dtype)]
    return np.where(np.abs(x) < to.largest, neighbours(x.astype(np.float64), to)[side], x).astype(dtype)


def _noisy(x: NumPyArray, dtype: Any, drawn: NumPyArray) -> NumPyArray:
    to = FORMATS[str(dtype)]
    low, high = neighbours(x.astype(np.float64), to)
    return (x + (high - low) * (drawn / 2**23 - 1)).astype(dtype)


def _stream(self: Rounded) -> np.random.Generator:
    found: np.random.Generator = self.memory.setdefault("rng", np.random.default_rng(0))
    return found


def _in_memory(c: Layer, x: NumPyArray) -> NumPyArray:
    indices = np.empty_like(c.given[0], dtype=np.int64)  # with its order in memory
    indices.ravel(order="K")[:] = np.arange(x.size)
    return indices if not indices.flags.f_contiguous else np.arange(x.size).reshape(x.shape, order="F")


def _in_layers(c: Layer, x: NumPyArray) -> NumPyArray:
    sizes = [n if axis in c.axes else 1 for axis, n in enumerate(x.shape)]
    return np.broadcast_to(np.arange(int(np.prod(sizes))).reshape(sizes), x.shape)
