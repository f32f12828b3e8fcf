"""SETAdam for CuPy: how its arrays lie in memory, and the choice between the kernels and the specification."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from setadam_core.inplace import InPlaceOptimizer, Task
from setadam_core.layers import Array
from setadam_core.layout import arranged
from setadam_core.spec import State, step
from setadam_cupy import _launch
from setadam_cupy._device import cupy

_MAX_WORK = 100_000  # steps that `numpy.shares_memory` may take in its search for a common element


class SETAdam(InPlaceOptimizer):
    __doc__ = f"""{InPlaceOptimizer.__doc__}
    ImportError, RuntimeError : no CuPy, no CUDA device.

    Notes
    -----
    ``fused=False`` computes by `setadam_core.step`, operation by operation; so are, with the kernels, layers
    that ``layer_axes`` interleave in memory. Nothing in ``step`` waits for the device. The kernels run on
    each device's current stream, and after the first step allocate nothing.
    """

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._xp = cupy()
        super().__init__(params, *args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._xp = cupy()
        super().__setstate__(state)

    def _update(self, tasks: list[Task]) -> None:
        batches: dict[Any, list[_launch.Item]] = {}
        for task in tasks:
            arrays, outer = arranged(task)
            theta, grad, m, v = arrays
            if task.group["fused"] is False or not (m.flags.c_contiguous and v.flags.c_contiguous):
                with theta.device:
                    self._by_specification(task)
                continue
            count = int(np.prod(theta.shape[:outer]))
            if theta.flags.c_contiguous and grad.flags.c_contiguous:
                key = (theta.device.id, _real_name(theta), task.t, task.hp)
                batches.setdefault(key, []).append(_launch.Item(arrays, count))
            else:
                self._staged(task, arrays, count)
        for (device, dtype, t, hp), items in batches.items():
            with self._xp.cuda.Device(device):
                _launch.step_layers(self._xp, self._scratch_of(device), items, dtype, t, hp)

    def _staged(self, task: Task, arrays: list[Array], count: int) -> None:
        """A parameter or gradient with gaps in memory: through contiguous scratch and back."""
        theta, grad, m, v = arrays
        with theta.device:
            scratch, dense = self._scratch_of(theta.device.id), []
            for name, x in (("theta", theta), ("grad", grad)):
                if not x.flags.c_contiguous:
                    copy = scratch.get(name, x.size, x.dtype)[: x.size].reshape(x.shape)
                    self._xp.copyto(copy, x)
                    x = copy
                dense.append(x)
            item = _launch.Item([*dense, m, v], count)
            _launch.step_layers(self._xp, scratch, [item], _real_name(theta), task.t, task.hp)
            if dense[0] is not theta:
                self._xp.copyto(theta, dense[0])

    def _by_specification(self, task: Task) -> None:
        state = State(task.m, task.v, task.t - 1)
        new, state = step(task.theta, task.grad, state, task.hp, layer_axes=task.layer.axes)
        for old, x in ((task.theta, new), (task.m, state.m), (task.v, state.v)):
            self._xp.copyto(old, x)

    def _scratch_of(self, device: int) -> _launch.Scratch:
        return self._scratch.setdefault(device, _launch.Scratch(self._xp))

    def _forget(self) -> None:
        super()._forget()
        self._scratch: dict[int, _launch.Scratch] = {}

    def _why_not_fused(self, param: Array) -> str | None:
        return None  # there is a kernel for every dtype

    def _as_leaf(self, x: Any) -> Array | None:
        return x if isinstance(x, self._xp.ndarray) else None

    def _view_as_real(self, x: Array) -> Array:
        real = x.real.dtype
        return self._xp.ndarray((*x.shape, 2), real, memptr=x.data, strides=(*x.strides, real.itemsize))

    def _bounds(self, x: Array) -> tuple[int, int]:
        # A device's addresses are no other's, so they can be compared like any.
        return np.lib.array_utils.byte_bounds(_stand_in(x))

    def _share(self, a: Array, b: Array) -> bool:
        try:
            return np.shares_memory(_stand_in(a), _stand_in(b), max_work=_MAX_WORK)  # type: ignore[arg-type]
        except np.exceptions.TooHardError:
            return True

    def _like(self, theta: Array, dtype: str, values: Any | None) -> Array:
        with theta.device:
            new = self._xp.zeros_like(theta, dtype=dtype, order="K")
            if values is not None:
                new[...] = self._xp.asarray(values)
        return new

    def _to_numpy(self, x: Array) -> Any:
        return self._xp.asnumpy(x)


def _stand_in(x: Array) -> Any:
    """A NumPy array that lies, as far as it says, where x does. It is asked for its bounds, and never read:
    `cupy.shares_memory` would let the device find out, and wait for it.
    """
    interface = {
        "version": 3,
        "data": (x.data.ptr, True),
        "shape": x.shape,
        "strides": x.strides,
        "typestr": f"|V{x.itemsize}",
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def _real_name(theta: Array) -> str:
    return str(theta.dtype)
