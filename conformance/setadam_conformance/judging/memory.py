"""References that were computed before: backends get the same examples, and most give the same moments."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.protocol import Capabilities, NumPyArray

# The claims on which references depend.
_WIDENING = (
    "reduction",
    "flushes_subnormals",
    "recomputes_moments",
    "traced_t",
    "epsilon",
    "corrections",
    "moments",
    "arithmetic",
    "corrected_moments",
    "float32_scalars",
    "is_elementwise",
)


class Memory:
    """A cache of references, by the bits of everything they depend on. Backends get the same examples, and paths of a
    framework and most of the self-test's faults return the same moments, so references are needed again.

    most: coordinates of all references together that are kept. One takes up to 33 bytes.
    """

    def __init__(self, most: int = 2**23) -> None:
        self._kept: OrderedDict[Any, tuple[int, Any]] = OrderedDict()
        self._most, self._size = most, 0

    def recall(self, make: Callable[[], Any], case: Case, layer: LayerCase, claims: Capabilities, *also: Any) -> Any:
        """The result of `make`, from the cache if it is there.

        also: arrays that the result depends on beside the case, the layer and the claims.
        """
        arrays = (layer.param, layer.grad, layer.m, layer.v, *also)
        asked = tuple(getattr(claims, name) for name in _WIDENING)
        key = (case.dtype, case.t, tuple(case.hp.items()), case.seed, layer.axes, asked, *map(_bits, arrays))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][1]
        found = make()
        size = 64 + layer.v.size * (1 if also else 2)  # of m and v, or of θ
        self._kept[key] = size, found
        self._size += size
        while self._size > self._most:
            self._size -= self._kept.popitem(last=False)[1][0]
        return found

    def forget(self) -> None:
        self._kept.clear()
        self._size = 0


def _bits(x: NumPyArray) -> Any:
    """Shape, dtype and bits of an array; of many bits, a digest that no two arrays share."""
    bits = x.tobytes()
    return x.shape, str(x.dtype), bits if len(bits) <= 64 else hashlib.sha256(bits).digest()


memory = Memory()
