"""SETAdam for NumPy: how its arrays lie in memory, and the choice between plain NumPy and the kernel."""

from typing import Any

import numpy as np

from setadam_core.inplace import InPlaceOptimizer, Task
from setadam_numpy import _blocks, _fused

Array = np.ndarray[Any, Any]

# Steps that `numpy.shares_memory` may take in its search for a common element.
_MAX_WORK = 100_000


class SETAdam(InPlaceOptimizer):
    __doc__ = InPlaceOptimizer.__doc__

    def _update(self, tasks: list[Task]) -> None:
        # Overflow gives ∞ and NaN, as in any framework: an error in the midst would leave half a step.
        with np.errstate(all="ignore"):
            for task in _fused.step_layers(tasks):
                _blocks.step_layers(task, self._scratch)

    def _why_not_fused(self, param: Array) -> str | None:
        return _fused.why_not(param.dtype)

    def _forget(self) -> None:
        super()._forget()
        self._scratch = _blocks.Scratch()

    def _as_leaf(self, x: Any) -> Array | None:
        # Views as plain arrays: in np.matrix, * would mean something else, and a mask would be ignored.
        return np.asarray(x) if isinstance(x, np.ndarray) and not isinstance(x, np.ma.MaskedArray) else None

    def _view_as_real(self, x: Array) -> Array:
        return x[..., None].view(x.real.dtype)

    def _bounds(self, x: Array) -> tuple[int, int]:
        if x.flags.c_contiguous:
            start: int = x.__array_interface__["data"][0]
            return start, start + x.nbytes
        return np.lib.array_utils.byte_bounds(x)

    def _share(self, a: Array, b: Array) -> bool:
        try:
            return np.shares_memory(a, b, max_work=_MAX_WORK)  # type: ignore[arg-type]  # any number may be given
        except np.exceptions.TooHardError:
            return True

    def _like(self, theta: Array, dtype: str, values: Any | None) -> Array:
        new = np.zeros_like(theta, dtype=dtype, order="K")
        if values is not None:
            np.copyto(new, values)
        return new

    def _to_numpy(self, x: Array) -> Array:
        return x
