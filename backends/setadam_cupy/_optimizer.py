"""SETAdam for CuPy: how its arrays lie in memory, and the choice between the kernels and the specification."""

from functools import cached_property
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
    Arrays are float16, float32, float64, complex64 or complex128. ``fused=False`` computes by `setadam_core.step`,
    operation by operation, with CuPy's own kernels, which read float32 subnormals as zero; those of this package
    keep them. They are compiled in each process's first step on a device. Layers with gaps in memory, or that
    ``layer_axes`` interleave there, are copied on their way. Nothing in ``step`` waits for the device. The kernels
    run on each device's current stream, and after the first step allocate nothing.
    """

    _dtypes = ("float16", "float32", "float64", "complex64", "complex128")  # those that there are kernels for

    @cached_property
    def _xp(self) -> Any:
        return cupy()

    def _update(self, tasks: list[Task]) -> None:
        plain = [task for task in tasks if task.group["fused"] is not None and not task.group["fused"]]
        fused = [task for task in tasks if task.group["fused"] is None or task.group["fused"]]
        for device in {task.theta.device.id for task in fused}:
            with self._xp.cuda.Device(device):
                _launch.module(self._xp, device)  # compiled, or an error, before anything is written
        for task in plain:
            with task.theta.device:
                self._by_specification(task)
        batches: dict[Any, list[_launch.Item]] = {}
        for task in fused:
            arrays, outer = arranged(task)
            count = int(np.prod(arrays[0].shape[:outer]))
            key = (task.theta.device.id, str(task.theta.dtype), task.t, task.hp)
            if all(x.flags.c_contiguous for x in arrays):
                batches.setdefault(key, []).append(_launch.Item(arrays, count))
            else:
                self._staged(key, arrays, count)
        for key, items in batches.items():
            with self._xp.cuda.Device(key[0]):
                self._run(key, items)

    def _run(self, key: Any, items: list[_launch.Item]) -> None:
        device, dtype, t, hp = key
        _launch.step_layers(self._xp, device, self._scratch_of(device), items, dtype, t, hp)

    def _staged(self, key: Any, arrays: list[Array], count: int) -> None:
        """Arrays with gaps in memory, or whose layers are interleaved there: through contiguous scratch and back."""
        dense = []
        with self._xp.cuda.Device(key[0]):
            for name, x in zip(("theta", "grad", "m", "v"), arrays, strict=True):
                if not x.flags.c_contiguous:
                    copy = self._scratch_of(key[0]).get(name, x.size, x.dtype)[: x.size].reshape(x.shape)
                    self._xp.copyto(copy, x)
                    x = copy
                dense.append(x)
            self._run(key, [_launch.Item(dense, count)])
            for name, x, copy in zip(("theta", "grad", "m", "v"), arrays, dense, strict=True):
                if copy is not x and name != "grad":
                    self._xp.copyto(x, copy)

    def _by_specification(self, task: Task) -> None:
        state = State(task.m, task.v, task.t - 1)
        new, state = step(task.theta, task.grad, state, task.hp, layer_axes=task.layer.axes)
        for old, x in ((task.theta, new), (task.m, state.m), (task.v, state.v)):
            self._xp.copyto(old, x)

    def _scratch_of(self, device: int) -> _launch.Scratch:
        return self._scratch.setdefault(device, _launch.Scratch(self._xp))

    def _forget(self) -> None:
        _ = self._xp  # before anything else, an error where it is not there
        super()._forget()
        self._scratch: dict[int, _launch.Scratch] = {}

    def _why_not_fused(self, param: Array) -> str | None:
        return None  # there is a kernel for every one of _dtypes

    def _check_aligned(self, what: str, name: str, x: Array) -> None:
        # The device would find out later, and then take no more work from this process.
        wanted = x.itemsize // 2 if x.dtype.kind == "c" else x.itemsize
        if x.data.ptr % wanted:
            raise ValueError(
                f"{what} {name!r} must lie at a multiple of {wanted} bytes, got the address {x.data.ptr:#x}"
            )

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
