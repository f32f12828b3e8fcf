"""Tensors as `setadam_core` sees them: checks before a step, real views, the layer of a parameter."""

import math
from collections.abc import Iterable, Sized
from functools import lru_cache
from typing import Any

import array_api_compat.torch as xp
import torch

from setadam_core import Hyperparameters
from setadam_core.hyperparameters import SWITCHES
from setadam_core.layers import COMPUTE_DTYPE, Layer, check_layer_axes
from setadam_core.plain import check_plain
from setadam_torch import _memory, _mesh

Tensor = Any  # torch.Tensor; torch is optional for the type checker
Tensors = list[Tensor]
Group = dict[str, Any]

STATE = ("exp_avg", "exp_avg_sq", "step")
NUMBERS = ("lr", "eps", "tau", "weight_decay", "cos_power")
_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_COUNTS = (torch.float64, torch.float32, torch.int64, torch.int32)  # dtypes that can count steps
_COMPUTE = {getattr(torch, name): getattr(torch, compute) for name, compute in COMPUTE_DTYPE.items()}


def compute_dtype(param: Tensor) -> Any:
    """The real dtype of a parameter's arithmetic and moments; TypeError if it has none."""
    if param.dtype not in _COMPUTE:
        raise TypeError(f"must have one of the dtypes {', '.join(COMPUTE_DTYPE)}, got {_bare(param.dtype)}")
    return _COMPUTE[param.dtype]


def serves_dtype(param: Tensor) -> bool:
    """Whether parameters of this dtype can be optimized."""
    return param.dtype in _COMPUTE


def moment_dtype(param: Tensor) -> Any:
    """The dtype of the stored moments: the compute dtype, or the complex one that is made of it."""
    return param.dtype if param.is_complex() else compute_dtype(param)


def step_device(param: Tensor, group: Group) -> Any:
    """Where the step count is kept: with the parameter for kernels and graphs that read it there."""
    return param.device if group["capturable"] or group["fused"] else torch.device("cpu")


def advance(steps: Tensors) -> None:
    """Add 1 to each step count. Waits for nothing."""
    if steps and (torch.compiler.is_compiling() or _memory.hold_values(steps)):
        torch._foreach_add_(steps, 1)
        return
    for t in steps:  # lists are more than some kinds of tensors know
        t.add_(1)


def count_up(steps: Tensors) -> list[float]:
    """Add 1 to each step count, and return them as numbers. Waits for a device where one is there."""
    usual = all(t.is_cpu and t.ndim == 0 and t.dtype == torch.float64 for t in steps)
    if steps and usual and _memory.hold_values(steps):
        torch._foreach_add_(steps, torch.ones((), dtype=torch.float64, device="cpu"))  # a number takes 2 µs for each
        return torch.stack(steps).tolist()  # type: ignore[no-any-return]
    advance(steps)
    return [float(t.item()) for t in steps]


def counts_as_tensors(group: Group, steps: Tensors) -> bool:
    """Whether a step must not read its counts: to stay in a graph, or because there is nothing to read."""
    return bool(group["capturable"] or torch.compiler.is_compiling() or any(map(_memory.is_unreadable, steps)))


def real(x: Tensor) -> Tensor:
    """A real view: complex of shape s is real of shape s + (2,)."""
    return torch.view_as_real(x) if x.is_complex() else x


def layer_of(param: Tensor, layer_axes: Any) -> Layer:
    """The specification's description of a parameter, as its real view in the compute dtype."""
    shape, axes = real(param).shape, check_layer_axes(layer_axes, param.ndim)
    if param.is_complex():
        axes = (*axes, param.ndim)
    size = math.prod([shape[axis] for axis in axes])  # a list: Dynamo has no generators here
    return Layer(xp, compute_dtype(param), param.dtype, False, axes, size)


def hyperparameters(group: Group) -> Hyperparameters:
    """A group's options, checked: TypeError or ValueError by the name of the option."""
    betas = group["betas"]
    if not isinstance(betas, Iterable) or not isinstance(betas, Sized) or len(betas) != 2:
        raise ValueError(f"betas must be a pair of numbers in [0, 1), got {betas!r}")
    for name in ("eps", "tau", "weight_decay"):
        if isinstance(group[name], torch.Tensor):
            raise TypeError(f"{name} must be a number (only lr may be a Tensor), got {group[name]!r}")
    if any(isinstance(beta, torch.Tensor) for beta in betas):
        raise TypeError(f"betas must be numbers (only lr may be a Tensor), got {betas!r}")
    options = [learning_rate(group), *(group[name] for name in (*NUMBERS[1:], *SWITCHES))]
    try:
        return _remembered(*betas, *options)
    except TypeError:  # a value that cannot be hashed, among others
        return _made(*betas, *options)


def with_plain_betas(group: Group) -> Group:
    """The group with betas as Python floats, if they came as an array's, whose arithmetic rounds in its own dtype."""
    betas = group.get("betas", (0.0, 0.0))
    if isinstance(betas, tuple | list) and {type(beta) for beta in betas} <= {float, int, torch.Tensor}:
        return group
    try:
        return {**group, "betas": tuple(map(float, betas))}
    except (TypeError, ValueError):
        return group  # for `check_group` to refuse


def learning_rate(group: Group) -> Any:
    """A group's lr, a number or a 0-d Tensor; ValueError for a Tensor of several elements."""
    lr = group["lr"]
    if not isinstance(lr, torch.Tensor) or lr.ndim == 0:
        return lr
    if lr.numel() != 1:
        raise ValueError(f"lr must be a number or a Tensor of one element, got shape {tuple(lr.shape)}")
    return lr.reshape(())


def _made(beta1: Any, beta2: Any, *options: Any) -> Hyperparameters:
    return Hyperparameters(beta1=beta1, beta2=beta2, **dict(zip((*NUMBERS, *SWITCHES), options, strict=True)))


_remembered = lru_cache(maxsize=64, typed=True)(_made)  # typed, for True is no stepsize, and 1 is


def check_group(group: Group) -> Hyperparameters:
    """Check every option of a group, before anything is made of it."""
    hp, lr = hyperparameters(group), group["lr"]
    if isinstance(lr, torch.Tensor) and lr.device.type == "cpu":  # elsewhere reading it would wait
        hyperparameters({**group, "lr": lr.item()})
    for name in ("foreach", "fused"):
        if group[name] and group["differentiable"]:
            raise ValueError(f"{name} must be False or None with differentiable=True, got {name}=True")
    if group["foreach"] and group["fused"]:
        raise ValueError("foreach must be False or None with fused=True, got foreach=True")
    return hp


def check_whole(param: Tensor, group: Group) -> None:
    """γ and min w need to know what a layer is: refuse a parameter in which layers are mixed up."""
    _mesh.check_not_flattened(param, group["params"])
    if _mesh.is_dtensor(param):
        _mesh.check(param, group["differentiable"])


def check_representable(params: Tensors, hp: Hyperparameters) -> None:
    """Check the hyperparameters against the dtypes in which they will be used."""
    for dtype in {_COMPUTE[dtype] for dtype in {param.dtype for param in params}}:
        info = torch.finfo(dtype)
        hp.check_representable(_bare(dtype), info.smallest_normal, info.max)


def check_param(param: Tensor, grad: Tensor, group: Group) -> None:
    """Check a parameter that has a gradient, before any parameter is updated."""
    check_whole(param, group)
    _mesh.check_gradient(param, grad)
    if grad.layout in _SPARSE:
        raise RuntimeError("it has a sparse gradient, which SETAdam does not support: it must be dense")
    _memory.check_as_traced("its gradient", param, grad)
    for name, x in (("it", param), ("its gradient", grad)):
        check_plain(name, x)
        if x.layout is not torch.strided or x.is_nested:
            kind = "a nested tensor" if x.is_nested else x.layout
            raise TypeError(f"{name} must be a dense (torch.strided) tensor, got {kind}")
        _memory.check_allocated(name, _mesh.local_part(x) if _mesh.is_dtensor(x) else x)
    _memory.check_writable("it", param)
    compute_dtype(param)
    if group["layer_axes"] is not None:
        check_layer_axes(group["layer_axes"], param.ndim)
    if grad.dtype != param.dtype:
        raise TypeError(f"its gradient must have dtype {_bare(param.dtype)}, got {_bare(grad.dtype)}")
    if grad.shape != param.shape:  # torch sees to both, but not where param.data is set after the backward pass
        raise ValueError(f"its gradient must have shape {tuple(param.shape)}, got {tuple(grad.shape)}")
    if grad.device != param.device:
        raise RuntimeError(f"its gradient must be on its device {param.device}, got {grad.device}")


def is_new(state: dict[str, Any]) -> bool:
    """Whether a parameter has no state yet; a wrapper may have put entries of its own there."""
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
        _mesh.check_placed_alike(param, x, key)
        _memory.check_as_traced(key, param, x)
        if x.dtype != dtype:
            raise TypeError(f"{key} must have dtype {_bare(dtype)}, got {_bare(x.dtype)}")
        if x.device != device:
            raise RuntimeError(f"{key} must be on the parameter's device {device}, got {x.device}")
    _check_count(param, state["step"], group)
    for key in STATE:
        x = state[key]
        _memory.check_allocated(key, _mesh.local_part(x) if _mesh.is_dtensor(x) else x)
        _memory.check_writable(key, x)


def _check_count(param: Tensor, t: Tensor, group: Group) -> None:
    if t.layout is not torch.strided or t.is_nested or t.numel() != 1:
        raise ValueError(f"step must be a dense tensor of one number, got shape {tuple(t.shape)}, {t.layout}")
    if t.dtype not in _COUNTS:
        raise TypeError(f"step must have one of the dtypes {', '.join(map(_bare, _COUNTS))}, got {_bare(t.dtype)}")
    if _memory.is_unreadable(t) and not _memory.is_unreadable(param):
        raise TypeError(f"step must hold a number, got {type(t).__name__} on {t.device}")
    here = step_device(param, group)
    readable = (here,) if here.type != "cpu" else (here, param.device)
    if t.device not in readable:
        raise RuntimeError(
            f"step must be on {here}, where this optimizer's options make a step read it, got {t.device}"
        )
    if group["fused"] and here.type == "cuda" and (t.dtype != torch.float64 or _memory.dispatches([t])):
        raise TypeError(f"step must be a plain float64 tensor for the kernel on {here}, got {_bare(t.dtype)}")


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


def _bare(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
