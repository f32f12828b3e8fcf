"""The fused path: all layers of a group in one call of a kernel, in two passes over memory, without copies.

On the CPU the kernel is `setadam_numpy.kernel` (Numba, extra `fast`), which is given addresses; on CUDA
devices `setadam_torch._triton`.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from setadam_numpy import kernel
from setadam_torch import _bulk, _memory, _triton
from setadam_torch._layers import Group, Tensor, Tensors, count_up, hyperparameters

_STORED = {torch.complex64: "float32", torch.complex128: "float64"}


@lru_cache
def why_not(device_type: str, dtype: Any) -> str | None:
    """What is missing for parameters of this device and dtype, or None."""
    if device_type == "cuda":
        return _triton.why_not()
    if device_type == "cpu":
        return kernel.why_not(_stored(dtype))
    return f"there is no kernel for {device_type}"


def wanted(group: Group) -> bool:
    """Whether a group's options leave its layers to a kernel, where there is one."""
    if group["fused"] is not None:
        return bool(group["fused"])
    return group["foreach"] is None and not group["differentiable"] and not group["capturable"]


def serves(group: Group, param: Tensor, *others: Tensor) -> bool:
    """Whether a kernel takes a layer as it lies in memory. On a GPU it has to be asked for."""
    if not _memory.hold_values((param, *others)):
        return False
    if param.device.type == "cuda":
        return bool(group["fused"])
    if param.device.type != "cpu" or why_not("cpu", param.dtype) is not None:
        return False
    if not _dense(param, *others):
        return False
    return group["layer_axes"] is None or (
        param.is_contiguous() and kernel.contiguous_slices(param.shape, group["layer_axes"]) is not None
    )


def fused(
    group: Group,
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    steps: Tensors,
    *,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update params, moments and steps in place. grad_scale, found_inf: of torch.amp.GradScaler, for what
    is on a GPU; `_scaler` has done on the CPU what they ask for.
    """
    buckets: dict[Any, Any] = {}
    columns = params, grads, exp_avgs, exp_avg_sqs, steps
    if _bulk.are_alike(params):
        buckets[params[0].device.type, params[0].dtype] = columns
    for layer in zip(*columns, strict=True) if not buckets else ():
        bucket = buckets.setdefault((layer[0].device.type, layer[0].dtype), ([], [], [], [], []))
        for column, x in zip(bucket, layer, strict=True):
            column.append(x)
    for (device_type, dtype), bucket in buckets.items():
        if device_type == "cuda":
            _triton.step_layers(group, *bucket, grad_scale=grad_scale, found_inf=found_inf)
        else:
            _on_cpu(group, _stored(dtype), *bucket)


def _on_cpu(group: Group, dtype: str, params: Tensors, grads: Tensors, ms: Tensors, vs: Tensors, ts: Tensors) -> None:
    found = _memory.addresses([*params, *grads, *ms, *vs])
    if found is None:
        raise TypeError("the kernel takes tensors that own the memory of their values alone: ask `serves` first")
    table = np.array(found, np.int64).reshape(4, -1)
    width = 2 if params[0].is_complex() else 1
    layers = kernel.Layers(table, np.array([width * x.numel() for x in params], np.int64), dtype)
    torch.autograd.graph.increment_version(params)  # autograd does not see what is written by address
    counts = _counted(ts)
    if group["layer_axes"] is not None:
        slices = np.array([kernel.contiguous_slices(x.shape, group["layer_axes"]) for x in params], np.int64)
        layers, counts = layers.cut(slices), np.repeat(counts, slices)
    kernel.step(layers, counts, hyperparameters(group), threads=torch.get_num_threads())


def _counted(steps: Tensors) -> Any:
    """Each step count, one more."""
    alike = _bulk.are_alike(steps) and steps[0].dtype == torch.float64 and steps[0].device.type == "cpu"
    if alike and (found := _memory.addresses(steps)) is not None:  # torch takes 2 µs for each
        return kernel.count_up(np.array(found, np.int64))
    return np.array(count_up(steps))


def _dense(*tensors: Tensor) -> bool:
    """Whether all lie in memory without gaps and in one order, which need not be C's."""
    if all(x.is_contiguous() for x in tensors):
        return True
    return tensors[0].ndim == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors)


def _stored(dtype: Any) -> str:
    return _STORED.get(dtype) or str(dtype).removeprefix("torch.")
