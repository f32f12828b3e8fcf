"""SETAdam for CuPy. The kernels compute the step, or with fused=False the specification."""

from functools import cached_property
from typing import Any

import numpy as np

from setadam_core.inplace import InPlaceOptimizer, Task
from setadam_core.inplace.layout import arranged
from setadam_core.layers import Array
from setadam_core.spec import State, step
from setadam_cupy import launch
from setadam_cupy.device import cupy
from setadam_cupy.memory import CuPyMemory


class SETAdam(InPlaceOptimizer):
    __doc__ = f"""{InPlaceOptimizer.__doc__}
    ImportError, RuntimeError : no CuPy, no CUDA device.

    Notes
    -----
    Arrays are float16, float32, float64, complex64 or complex128. With ``fused=False``, `setadam_core.step` computes
    the step by CuPy's own kernels, operation by operation; these read float32 subnormals as zero. The kernels of this
    package keep subnormals. The first step of a process on a device compiles them. Layers with gaps in memory, and
    layers that ``layer_axes`` interleave, are copied to scratch memory and back. Nothing in ``step`` waits for the
    device. The kernels run on each device's current stream, and allocate nothing after the first step.
    """

    @cached_property
    def _memory(self) -> CuPyMemory:  # type: ignore[override]  # created with an optimizer, not by the import
        return CuPyMemory(cupy())

    @property
    def _xp(self) -> Any:
        return self._memory.xp

    def _update(self, tasks: list[Task]) -> None:
        plain = [task for task in tasks if task.fused is False]
        fused = [task for task in tasks if task.fused is not False]
        for device in {task.theta.device.id for task in fused}:
            with self._xp.cuda.Device(device):
                launch.module(self._xp, device)  # compiles, or raises an error, before anything is written
        for task in plain:
            with task.theta.device:
                self._by_specification(task)
        batches: dict[Any, list[launch.Item]] = {}
        for task in fused:
            arrays, outer = arranged(task)
            count = int(np.prod(arrays[0].shape[:outer]))
            key = (task.theta.device.id, str(task.theta.dtype), task.t, task.hp)
            if all(x.flags.c_contiguous for x in arrays):
                batches.setdefault(key, []).append(launch.Item(arrays, count))
            else:
                self._staged(key, arrays, count)
        for key, items in batches.items():
            with self._xp.cuda.Device(key[0]):
                self._run(key, items)

    def _run(self, key: Any, items: list[launch.Item]) -> None:
        device, dtype, t, hp = key
        launch.step_layers(self._xp, device, self._scratch_of(device), items, dtype, t, hp)

    def _staged(self, key: Any, arrays: list[Array], count: int) -> None:
        """The step of arrays that have gaps in memory or interleaved layers, on a contiguous copy."""
        dense = []
        with self._xp.cuda.Device(key[0]):
            for name, x in zip(("theta", "grad", "m", "v"), arrays, strict=True):
                if not x.flags.c_contiguous:
                    copy = self._scratch_of(key[0]).get(name, x.size, x.dtype)[: x.size].reshape(x.shape)
                    self._xp.copyto(copy, x)
                    x = copy
                dense.append(x)
            self._run(key, [launch.Item(dense, count)])
            for name, x, copy in zip(("theta", "grad", "m", "v"), arrays, dense, strict=True):
                if copy is not x and name != "grad":
                    self._xp.copyto(x, copy)

    def _by_specification(self, task: Task) -> None:
        state = State(task.m, task.v, task.t - 1)
        new, state = step(task.theta, task.grad, state, task.hp, layer_axes=task.layer.axes)
        for old, x in ((task.theta, new), (task.m, state.m), (task.v, state.v)):
            self._xp.copyto(old, x)

    def _scratch_of(self, device: int) -> launch.Scratch:
        return self._scratch.setdefault(device, launch.Scratch(self._xp))

    def _forget(self) -> None:
        super()._forget()
        self._scratch: dict[int, launch.Scratch] = {}

    def _why_not_fused(self, param: Array) -> str | None:
        return None  # there is a kernel for each of `CuPyMemory.dtypes`
