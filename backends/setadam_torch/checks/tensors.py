"""Tensors as `setadam_core` sees them: compute dtypes, real views, the layer of a parameter."""

import math
from typing import Any

import array_api_compat.torch as xp
import torch

from setadam_core.layers import COMPUTE_DTYPE, Layer, check_layer_axes

Tensor = Any  # torch.Tensor; torch is optional for the type checker
Tensors = list[Tensor]

_COMPUTE = {getattr(torch, name): getattr(torch, compute) for name, compute in COMPUTE_DTYPE.items()}


def compute_dtype(param: Tensor) -> Any:
    """The real dtype of a parameter's arithmetic and moments. TypeError if it has none."""
    if param.dtype not in _COMPUTE:
        raise TypeError(f"must have one of the dtypes {', '.join(COMPUTE_DTYPE)}, got {dtype_name(param.dtype)}")
    return _COMPUTE[param.dtype]


def has_compute_dtype(param: Tensor) -> bool:
    """Whether parameters of this dtype can be optimized."""
    return param.dtype in _COMPUTE


def moment_dtype(param: Tensor) -> Any:
    """The dtype of the stored moments: the compute dtype, or the complex dtype made of it."""
    return param.dtype if param.is_complex() else compute_dtype(param)


def dtype_name(dtype: Any) -> str:
    """``torch.float32`` as ``float32``."""
    return str(dtype).removeprefix("torch.")


def real(x: Tensor) -> Tensor:
    """A real view: a complex tensor of shape s is real of shape s + (2,)."""
    return torch.view_as_real(x) if x.is_complex() else x


def layer_of(param: Tensor, layer_axes: Any) -> Layer:
    """The specification's description of a parameter, as its real view in the compute dtype."""
    shape, axes = real(param).shape, check_layer_axes(layer_axes, param.ndim)
    if param.is_complex():
        axes = (*axes, param.ndim)
    size = math.prod([shape[axis] for axis in axes])  # a list: Dynamo has no generators here
    return Layer(xp, compute_dtype(param), param.dtype, False, axes, size)


def shape_of_layers(x: Tensor, layer: Layer) -> list[int]:
    """The shape of x with its layers' axes as 1: one place for each layer."""
    return [1 if axis in layer.axes else n for axis, n in enumerate(x.shape)]
