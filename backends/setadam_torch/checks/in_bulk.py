"""The checks of `params`, asked of all tensors at once.

Python reads an attribute of a tensor in 50 ns. To check one layer after the other takes some µs, more than
the kernel needs for a small layer. So one attribute at a time is read of all tensors, and almost every step
passes. Where one does not, `params` checks each layer and names what is wrong.
"""

from itertools import chain
from operator import attrgetter
from typing import Any

import torch

from setadam_torch.checks import memory, mesh
from setadam_torch.checks.options import Group, step_device
from setadam_torch.checks.params import STATE, can_be_read
from setadam_torch.checks.tensors import Tensors, has_compute_dtype, moment_dtype

_dtype, _device, _is_cpu, _layout, _shape = map(attrgetter, ("dtype", "device", "is_cpu", "layout", "shape"))

_STATE = frozenset(STATE)


def pass_all_checks(group: Group, params: Tensors, grads: Tensors, states: list[dict[str, Any]]) -> bool:
    """Whether `check_param` and `check_moments` would pass for every layer. False also where in doubt."""
    moments, counts = _of_states(states)
    return (
        _alike(group, params, grads, moments, counts)
        and memory.are_allocated(params + grads + moments + counts)
        and not any(map(memory.overlaps_itself, params + moments))
        and _may_go_on(counts)
    )


def locate(group: Group, params: Tensors, grads: Tensors, states: list[dict[str, Any]]) -> list[int] | None:
    """The addresses of all parameters, gradients, first and second moments and step counts, if `pass_all_checks`, and
    all are real and contiguous and their memory holds their values. None also where in doubt.
    """
    moments, counts = _of_states(states)
    tensors = params + grads + moments + counts
    if (
        not _alike(group, params, grads, moments, counts)
        or params[0].is_complex()
        or not all(map(torch.Tensor.is_contiguous, params + grads + moments))
        or any(map(torch.Tensor.is_neg, tensors))
    ):
        return None
    addresses = memory.pointers(tensors)
    return addresses if addresses is not None and _may_go_on(counts) else None


def _of_states(states: list[dict[str, Any]]) -> tuple[Tensors, Tensors]:
    """First and then second moments, and step counts; none if one is missing."""
    if not all(map(_STATE.issubset, states)):
        return [], []
    return [state[key] for key in STATE[:2] for state in states], [state["step"] for state in states]


def _alike(group: Group, params: Tensors, grads: Tensors, moments: Tensors, counts: Tensors) -> bool:
    """`pass_all_checks`, but for memory."""
    if group["layer_axes"] is not None or not counts:
        return False
    first, outer = params[0], params + grads
    return bool(
        mesh.are_plain(params, grads, moments, counts)
        and has_compute_dtype(first)
        and set(map(_layout, outer + moments)) == {torch.strided}
        and set(map(_dtype, outer)) == {first.dtype}
        and set(map(_dtype, moments)) == {moment_dtype(first)}
        and _share_device(outer + moments)
        and 2 * (shapes := list(map(_shape, params))) == list(map(_shape, moments))
        and shapes == list(map(_shape, grads))
        and set(map(_shape, counts)) == {torch.Size()}
        and set(map(_dtype, counts)) == {torch.float64}
        and set(map(_device, counts)) == {step_device(first, group)}
        and not (first.is_complex() and any(map(torch.Tensor.is_conj, moments)))
        and (torch.is_inference_mode_enabled() or not any(map(torch.Tensor.is_inference, params + moments + counts)))
    )


def _may_go_on(counts: Tensors) -> bool:
    """Whether no step count that can be read without waiting is below 0. They have memory."""
    return not can_be_read(counts) or bool((torch.stack(counts) >= 0).all())


def are_alike(tensors: Tensors) -> bool:
    """Whether all have one dtype and one device."""
    return len(set(map(_dtype, tensors))) == 1 and _share_device(tensors)


def _share_device(tensors: Tensors) -> bool:
    if tensors[0].is_cpu:  # read in half the time
        return all(map(_is_cpu, tensors))
    return len(set(map(_device, tensors))) == 1


def take_one_path(group: Group, params: Tensors, grads: Tensors, *moments: Tensors) -> bool:
    """Whether the path that serves the first layer serves all: real tensors of one dtype and device, contiguous,
    whose memory holds their values.
    """
    return bool(
        params
        and group["layer_axes"] is None
        and not params[0].is_complex()
        and are_alike(params)
        and all(map(torch.Tensor.is_contiguous, chain(params, grads, *moments)))
        and memory.hold_values(params, grads, *moments)
    )
