"""Questions about many tensors at once.

Python reads an attribute of a tensor in 50 ns; to check one layer after the other takes some µs, more than
the kernel needs for a small layer. So one attribute at a time is read of all tensors, which answers for
almost every step that all is well. Only where the answer is no is each layer checked, by `_layers`, and what
is wrong named.
"""

from itertools import chain
from operator import attrgetter
from typing import Any

import torch

from setadam_torch import _memory, _mesh
from setadam_torch._layers import STATE, Group, Tensors, moment_dtype, serves_dtype, step_device

_dtype, _device, _is_cpu, _layout, _shape = map(attrgetter, ("dtype", "device", "is_cpu", "layout", "shape"))

_STATE = frozenset(STATE)


def pass_all_checks(group: Group, params: Tensors, grads: Tensors, states: list[dict[str, Any]]) -> bool:
    """Whether `check_param` and `check_moments` would pass for every layer. False also where in doubt."""
    if group["layer_axes"] is not None or not params:
        return False
    if not all(map(_STATE.issubset, states)):
        return False
    moments = [state[key] for key in ("exp_avg", "exp_avg_sq") for state in states]
    counts = [state["step"] for state in states]
    first, outer = params[0], params + grads
    return bool(
        _mesh.are_plain(params, grads, moments, counts)
        and serves_dtype(first)
        and set(map(_layout, outer + moments)) == {torch.strided}
        and set(map(_dtype, outer)) == {first.dtype}
        and set(map(_dtype, moments)) == {moment_dtype(first)}
        and _share_device(outer + moments)
        and 2 * (shapes := list(map(_shape, params))) == list(map(_shape, moments))
        and shapes == list(map(_shape, grads))
        and set(map(_shape, counts)) == {torch.Size()}
        and set(map(_dtype, counts)) == {torch.float64}
        and set(map(_device, counts)) == {step_device(first, group)}
        and _memory.are_allocated(outer + moments + counts)
        and not (first.is_complex() and any(map(torch.Tensor.is_conj, moments)))
        and (torch.is_inference_mode_enabled() or not any(map(torch.Tensor.is_inference, params + moments + counts)))
        and not any(map(_memory.overlaps_itself, params + moments))
    )


def are_alike(tensors: Tensors) -> bool:
    """Whether all have one dtype and one device."""
    return len(set(map(_dtype, tensors))) == 1 and _share_device(tensors)


def _share_device(tensors: Tensors) -> bool:
    if tensors[0].is_cpu:  # read in half the time
        return all(map(_is_cpu, tensors))
    return len(set(map(_device, tensors))) == 1


def take_one_path(group: Group, params: Tensors, grads: Tensors, *moments: Tensors) -> bool:
    """Whether what is said of the first layer's place in memory holds for all: real tensors of one dtype and
    device in C's order, whose memory holds the values that they stand for.
    """
    return bool(
        params
        and group["layer_axes"] is None
        and not params[0].is_complex()
        and are_alike(params)
        and all(map(torch.Tensor.is_contiguous, chain(params, grads, *moments)))
        and _memory.hold_values(params, grads, *moments)
    )
