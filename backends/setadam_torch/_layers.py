"""Tensors as `setadam_core` sees them: checks before a step, real views, the layer of a parameter."""

import math
from functools import lru_cache
from typing import Any

import array_api_compat.torch as xp
import torch

from setadam_core import Hyperparameters
from setadam_core.layers import COMPUTE_DTYPE, Layer, check_layer_axes
from setadam_torch import _mesh

Tensor = Any  # torch.Tensor; torch is optional for the type checker
Tensors = list[Tensor]
Group = dict[str, Any]

NUMBERS = ("lr", "eps", "tau", "weight_decay", "cos_power")
SWITCHES = ("decoupled_weight_decay", "maximize", "eps_inside_sqrt")
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
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"betas must be a pair of numbers in [0, 1), got {betas!r}")
    for name in ("eps", "tau", "weight_decay"):
        if isinstance(group[name], torch.Tensor):
            raise TypeError(f"{name} must be a number (only lr may be a Tensor), got {group[name]!r}")
    if any(isinstance(beta, torch.Tensor) for beta in betas):
        raise TypeError(f"betas must be numbers (only lr may be a Tensor), got {betas!r}")
    lr = group["lr"]
    if isinstance(lr, torch.Tensor) and lr.shape != ():
        raise ValueError(f"lr must be a number or a 0-d Tensor, got shape {tuple(lr.shape)}")
    options = [group[name] for name in (*NUMBERS, *SWITCHES)]
    try:
        return _remembered(*betas, *options)
    except TypeError:  # a value that cannot be hashed, among others
        return _made(*betas, *options)


def _made(beta1: Any, beta2: Any, *options: Any) -> Hyperparameters:
    return Hyperparameters(beta1=beta1, beta2=beta2, **dict(zip((*NUMBERS, *SWITCHES), options, strict=True)))


_remembered = lru_cache(maxsize=64, typed=True)(_made)  # typed, for True is no stepsize, and 1 is


def check_group(group: Group) -> Hyperparameters:
    """Check every option of a group, before anything is made of it."""
    lr = group["lr"]
    hp = hyperparameters(group)
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
    if grad.layout is not torch.strided:
        raise RuntimeError("it has a sparse gradient, which SETAdam does not support: it must be dense")
    compute_dtype(param)
    if group["layer_axes"] is not None:
        check_layer_axes(group["layer_axes"], param.ndim)
    if grad.dtype != param.dtype:
        raise TypeError(f"its gradient must have dtype {_bare(param.dtype)}, got {_bare(grad.dtype)}")
    if grad.shape != param.shape:  # torch sees to both, but not where param.data is set after the backward pass
        raise ValueError(f"its gradient must have shape {tuple(param.shape)}, got {tuple(grad.shape)}")
    if grad.device != param.device:
        raise RuntimeError(f"its gradient must be on its device {param.device}, got {grad.device}")


def check_moments(param: Tensor, state: dict[str, Any]) -> None:
    """Check a state that came from outside against its parameter."""
    for key in ("exp_avg", "exp_avg_sq", "step"):
        if key not in state:
            raise KeyError(f"its state must have {key}, got {sorted(state)}")
    shape, dtype, device = param.shape, moment_dtype(param), param.device
    for key in ("exp_avg", "exp_avg_sq"):
        x = state[key]
        if x.shape != shape:
            raise ValueError(f"{key} must have the parameter's shape {tuple(shape)}, got {tuple(x.shape)}")
        _mesh.check_placed_alike(param, x, key)
        if x.dtype != dtype:
            raise TypeError(f"{key} must have dtype {_bare(dtype)}, got {_bare(x.dtype)}")
        if x.device != device:
            raise RuntimeError(f"{key} must be on the parameter's device {device}, got {x.device}")


def parameter_name(group: Group, group_index: int, index: int) -> str:
    """A parameter's own name where it has one, else "group.index"."""
    names = group.get("param_names")
    return names[index] if names else f"{group_index}.{index}"


def named(error: Exception, group: Group, group_index: int, index: int) -> Exception:
    """The same error, with the name of the parameter that it is about."""
    return type(error)(f"{parameter_name(group, group_index, index)}: {error.args[0]}")


def _bare(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
