"""The CPU kernel as a path: all layers of a dtype in one call, by their addresses, without copies."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from setadam_core.parts import Parts
from setadam_numpy import kernel
from setadam_torch.checks import in_bulk, memory
from setadam_torch.checks.options import Group, hyperparameters, leaves_choice_to_kernel
from setadam_torch.checks.tensors import Tensor, Tensors, dtype_name
from setadam_torch.paths.columns import Columns, by_device_and_dtype
from setadam_torch.paths.counts import count_up
from setadam_torch.paths.cpu_kernel.team import team
from setadam_torch.paths.protocol import Path


class CPUKernel(Path):
    """By `setadam_numpy.kernel` (Numba, extra `fast`)."""

    name = "cpu_kernel"
    is_kernel_for = "cpu"

    def __init__(self, group: Group, columns: Columns) -> None:
        super().__init__(group, columns)
        self._table, self._slices = _located(group, columns)

    @classmethod
    def missing(cls, dtype: Any) -> str | None:
        return _missing(dtype)

    @classmethod
    def why_not(cls, group: Group, layer: Sequence[Tensor]) -> str | None:
        if not leaves_choice_to_kernel(group):
            return "the options ask for another path"
        if not memory.hold_values(layer):
            return "a tensor without memory of its values has no address"
        param = layer[0]
        if param.device.type != "cpu":
            return "it is not on the CPU"
        if (reason := cls.missing(param.dtype)) is not None:
            return reason
        if not _dense(layer):
            return "the kernel takes layers without gaps in memory"
        axes = group["layer_axes"]
        if axes is not None and not (param.is_contiguous() and _slices(param, axes) is not None):
            return "the kernel takes stacks whose layers follow one another in memory"
        return None

    def moments(self) -> Parts:
        self._counts = self._each(_counted(self.columns.steps))
        parts = kernel.moments(self._table, hyperparameters(self.group), threads=team())
        return Parts(*map(torch.from_numpy, parts))

    def descend(self, gammas: Tensor, lows: Tensor) -> None:
        torch.autograd.graph.increment_version(self.columns.params)  # autograd does not see writes by address
        known = gammas.numpy(), lows.numpy()
        kernel.descend(self._table, self._counts, hyperparameters(self.group), *known, threads=team())

    @classmethod
    def step(cls, group: Group, columns: Columns) -> None:
        """Both passes in one call: a layer descends while it is in the cache."""
        hp = hyperparameters(group)
        for part in by_device_and_dtype(columns):
            begun = cls(group, part)
            torch.autograd.graph.increment_version(part.params)
            counts = begun._each(_counted(part.steps))
            kernel.step(begun._table, counts, hp, threads=team())

    def _each(self, counts: Any) -> Any:
        """The numbers of parameters as numbers of layers."""
        return counts if self._slices is None else np.repeat(counts, self._slices)


@lru_cache
def _missing(dtype: Any) -> str | None:
    return kernel.why_not(_stored(dtype))


def _located(group: Group, columns: Columns) -> tuple[kernel.Layers, Any]:
    """Where the layers lie, and how many each parameter stacks (None: one)."""
    params = columns.params
    found = memory.addresses([x for column in columns[:4] for x in column])
    if found is None:
        raise TypeError("the kernel takes tensors that own the memory of their values alone: ask `why_not` first")
    table = np.array(found, np.int64).reshape(4, -1)
    width = 2 if params[0].is_complex() else 1
    layers = kernel.Layers(table, np.array([width * x.numel() for x in params], np.int64), _stored(params[0].dtype))
    if group["layer_axes"] is None:
        return layers, None
    slices = np.array([_slices(x, group["layer_axes"]) for x in params], np.int64)
    return layers.cut(slices), slices


def _slices(param: Tensor, axes: Any) -> int | None:
    return kernel.contiguous_slices(param.shape, axes)


def _counted(steps: Tensors) -> Any:
    """Each step count, one more."""
    alike = in_bulk.are_alike(steps) and steps[0].dtype == torch.float64 and steps[0].device.type == "cpu"
    if alike and (found := memory.addresses(steps)) is not None:  # torch takes 2 µs for each
        return kernel.count_up(np.array(found, np.int64))
    return np.array(count_up(steps))


def _dense(tensors: Sequence[Tensor]) -> bool:
    """Whether all lie in memory without gaps and in one order, which need not be C's."""
    if all(x.is_contiguous() for x in tensors):
        return True
    return tensors[0].ndim == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors)


def _stored(dtype: Any) -> str:
    """The name of the dtype of a parameter's real view."""
    return dtype_name(dtype.to_real())
