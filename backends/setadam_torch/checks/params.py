"""What a parameter, its gradient and its state must be, checked one parameter after the other before a step."""

from collections.abc import Sequence
from typing import Any

import torch

from setadam_core.hyperparameters import Hyperparameters
from setadam_core.layers import check_layer_axes
from setadam_core.plain import check_plain
from setadam_torch.checks import memory, mesh
from setadam_torch.checks.options import Group, is_rounded_stochastically, step_device
from setadam_torch.checks.tensors import Tensor, Tensors, compute_dtype, dtype_name, moment_dtype

STATE = ("exp_avg", "exp_avg_sq", "step")
_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_COUNTS = (torch.float64, torch.float32, torch.int64, torch.int32)  # dtypes that can count steps


def check_whole(param: Tensor, group: Group) -> None:
    """Refuse a parameter in which layers are mixed up: γ and min w need to know what a layer is."""
    mesh.check_not_flattened(param, group["params"])
    if mesh.is_dtensor(param):
        mesh.check(param, group["differentiable"])
        if is_rounded_stochastically(param, group):
            mesh.check_places(param)


def check_representable(params: Tensors, hp: Hyperparameters) -> None:
    """Check the hyperparameters against the dtypes in which they will be used."""
    one_of_each = {param.dtype: param for param in params}.values()
    for dtype in {compute_dtype(param) for param in one_of_each}:
        info = torch.finfo(dtype)
        hp.check_representable(dtype_name(dtype), info.smallest_normal, info.max)


def check_param(param: Tensor, grad: Tensor, group: Group) -> None:
    """Check a parameter that has a gradient, before any parameter is updated."""
    check_whole(param, group)
    mesh.check_gradient(param, grad)
    if grad.layout in _SPARSE:
        raise RuntimeError("it has a sparse gradient, which SETAdam does not support: it must be dense")
    memory.check_as_traced("its gradient", param, grad)
    for name, x in (("it", param), ("its gradient", grad)):
        check_plain(name, x)
        if x.layout is not torch.strided or x.is_nested:
            kind = "a nested tensor" if x.is_nested else x.layout
            raise TypeError(f"{name} must be a dense (torch.strided) tensor, got {kind}")
        memory.check_allocated(name, mesh.local_part(x) if mesh.is_dtensor(x) else x)
    memory.check_writable("it", param)
    compute_dtype(param)
    if group["layer_axes"] is not None:
        check_layer_axes(group["layer_axes"], param.ndim)
    if grad.dtype != param.dtype:
        raise TypeError(f"its gradient must have dtype {dtype_name(param.dtype)}, got {dtype_name(grad.dtype)}")
    if grad.shape != param.shape:  # torch checks both, but not where param.data is set after the backward pass
        raise ValueError(f"its gradient must have shape {tuple(param.shape)}, got {tuple(grad.shape)}")
    if grad.device != param.device:
        raise RuntimeError(f"its gradient must be on its device {param.device}, got {grad.device}")


def is_new(state: dict[str, Any]) -> bool:
    """Whether a parameter has no state yet. A wrapper may have put entries of its own there."""
    return not any(key in state for key in STATE)


def check_moments(param: Tensor, state: dict[str, Any], group: Group) -> None:
    """Check a state that came from outside against its parameter."""
    for key in STATE:
        if key not in state:
            raise KeyError(f"its state must have {key}, got {sorted(map(str, state))}")
        if not isinstance(state[key], torch.Tensor):
            raise TypeError(f"{key} must be a tensor, got {_described(state[key])}")
    shape, dtype, device = param.shape, moment_dtype(param), param.device
    for key in ("exp_avg", "exp_avg_sq"):
        x = state[key]
        check_plain(key, x)
        if x.layout is not torch.strided or x.is_nested:
            raise TypeError(f"{key} must be a dense (torch.strided) tensor, got {x.layout}")
        if x.shape != shape:
            raise ValueError(f"{key} must have the parameter's shape {tuple(shape)}, got {tuple(x.shape)}")
        if x.is_conj():
            raise RuntimeError(f"{key} must not be lazily conjugated: give resolve_conj() of it")
        mesh.check_placed_alike(param, x, key)
        memory.check_as_traced(key, param, x)
        if x.dtype != dtype:
            raise TypeError(f"{key} must have dtype {dtype_name(dtype)}, got {dtype_name(x.dtype)}")
        if x.device != device:
            raise RuntimeError(f"{key} must be on the parameter's device {device}, got {x.device}")
    _check_count(param, state["step"], group)
    for key in STATE:
        x = state[key]
        memory.check_allocated(key, mesh.local_part(x) if mesh.is_dtensor(x) else x)
        memory.check_writable(key, x)


def can_be_read(counts: Sequence[Tensor]) -> bool:
    """Whether step counts can be read without waiting for a device."""
    return not torch.compiler.is_compiling() and all(t.is_cpu for t in counts) and memory.hold_values(counts)


def _check_count(param: Tensor, t: Tensor, group: Group) -> None:
    if t.layout is not torch.strided or t.is_nested or t.numel() != 1:
        raise ValueError(f"step must be a dense tensor of one number, got shape {tuple(t.shape)}, {t.layout}")
    if t.dtype not in _COUNTS:
        allowed = ", ".join(map(dtype_name, _COUNTS))
        raise TypeError(f"step must have one of the dtypes {allowed}, got {dtype_name(t.dtype)}")
    if memory.is_unreadable(t) and not memory.is_unreadable(param):
        raise TypeError(f"step must hold a number, got {type(t).__name__} on {t.device}")
    if can_be_read([t]) and not t.item() >= 0:
        raise ValueError(f"step must be ≥ 0, got {t.item():g}")
    here = step_device(param, group)
    readable = (here,) if here.type != "cpu" else (here, param.device)
    if t.device not in readable:
        raise RuntimeError(
            f"step must be on {here}, where this optimizer's options make a step read it, got {t.device}"
        )
    if group["fused"] and here.type == "cuda" and (t.dtype != torch.float64 or memory.dispatches([t])):
        raise TypeError(f"step must be a plain float64 tensor for the kernel on {here}, got {dtype_name(t.dtype)}")


def parameter_name(group: Group, group_index: int, index: int) -> str:
    """A parameter's own name where it has one, else "group.index"."""
    names = group.get("param_names")
    return names[index] if names else f"{group_index}.{index}"


def named(error: Exception, group: Group, group_index: int, index: int) -> Exception:
    """The same error, beginning with the parameter that it is about."""
    names = group.get("param_names")
    name = names[index] if names else f"parameter {index} of group {group_index}"
    return type(error)(f"{name}: {error.args[0]}")


def _described(x: Any) -> str:
    return repr(x) if x is None or isinstance(x, int | float) else f"a {type(x).__name__}"
