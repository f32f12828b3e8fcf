"""The reference with stochastic rounding, and a correct variant of it. `faults/rounding.py` starts from these."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from setadam_conformance.cases.formats import FORMATS, neighbours
from setadam_conformance.protocol import LayerState, NumPyArray
from setadam_conformance.teeth.reference import Layer, Reference, Rows, unrows
from setadam_core.rounding import check_seed, random_words


class Rounded(Reference):
    """One method for each line of the rounding."""

    name = "teeth:rounded"
    capabilities = replace(Reference.capabilities, stochastic_rounding="specified")
    seed: int | None = None

    def step(
        self,
        params: Sequence[NumPyArray],
        grads: Sequence[NumPyArray],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[NumPyArray], list[LayerState]]:
        options = dict(hp)
        self.seed = check_seed(options.pop("stochastic_rounding", False))
        return super().step(params, grads, states, options, layer_axes)

    def store(self, c: Layer, theta: Rows, m: Rows, v: Rows) -> tuple[NumPyArray, LayerState]:
        param, state = super().store(c, theta, m, v)
        if self.seed is None or param.dtype.itemsize != 2:
            return param, state
        return self.round(c, unrows(theta, param.shape, c.axes), param.dtype), state

    def round(self, c: Layer, x: NumPyArray, dtype: Any) -> NumPyArray:
        words = random_words(*self.key(c), self.indices(c, x))
        return self.choose(c, x, dtype, words.astype(np.int64) % 2**32 // 2**8)

    def key(self, c: Layer) -> tuple[int, int, int]:
        place = next(i for i, other in enumerate(c.call) if other is c)
        return self.seed or 0, c.t, place

    def indices(self, c: Layer, x: NumPyArray) -> NumPyArray:
        return np.arange(x.size).reshape(x.shape)

    def choose(self, c: Layer, x: NumPyArray, dtype: Any, drawn: NumPyArray) -> NumPyArray:
        """The neighbours that numbers drawn from 0 to 2²⁴ choose."""
        to = FORMATS[str(dtype)]
        low, high = neighbours(x.astype(np.float64), to)
        near, far = np.where(x < 0, high, low), np.where(x < 0, low, high)
        share = np.abs(x - near) / np.where(near == far, 1, np.abs(far - near))
        new = np.where(self.goes_away(c, share, drawn), far, near)
        return np.asarray(np.where(np.abs(x) < to.largest, new, x)).astype(dtype)

    def goes_away(self, c: Layer, share: NumPyArray, drawn: NumPyArray) -> NumPyArray:
        """Whether x becomes its neighbour that is farther from 0, given how far it is on the way there."""
        return np.asarray(drawn >= 2**24 - np.floor(share * 2**24))


class ByBits(Rounded):
    """Stochastic rounding to bfloat16 by adding random bits and cutting bits off."""

    name = "teeth:rounded-by-bits"

    def choose(self, c: Layer, x: NumPyArray, dtype: Any, drawn: NumPyArray) -> NumPyArray:
        if str(dtype) != "bfloat16":
            return super().choose(c, x, dtype, drawn)
        bits = np.asarray(x, np.float32).view(np.uint32)
        cut = np.asarray((bits + (drawn >> 8).astype(np.uint32)) & np.uint32(0xFFFF0000)).view(np.float32)
        return np.asarray(np.where(np.abs(x) < FORMATS["bfloat16"].largest, cut, x)).astype(dtype)
