"""Whether a tensor owns memory that holds its values, and at which address. No other file takes an address.

A kernel writes to the address that it is given, whatever lies there. Many tensors have no address of their own: that
of a wrapper subclass, of a fake, meta or functional tensor is 0, and so is that of freed memory. Others hold in memory
something else than their values: lazily negated or conjugated, quantized and nested tensors. All these are left to
paths that use only the tensor's own operations.
"""

import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any

import torch

Tensor = Any  # torch.Tensor; torch is optional for the type checker

_layout, _dtype, _is_nested = map(attrgetter, ("layout", "dtype", "is_nested"))  # read of all tensors, one at a time
_STRIDED = {torch.strided}
_QUANTIZED = {torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4}


@lru_cache(maxsize=256)
def _dispatches(kind: type) -> bool:
    own = getattr(kind, "__torch_dispatch__", None)
    return own is not None and own is not torch.Tensor.__torch_dispatch__


def dispatches(*columns: Iterable[Tensor]) -> bool:
    """Whether the class of one of the tensors computes operations in its own way (``__torch_dispatch__``), as wrapper
    subclasses do. Such a class may not support operations on lists of tensors.
    """
    return any(map(_dispatches, set(map(type, chain(*columns)))))


def as_plain(x: Tensor) -> Tensor:
    """A few numbers as a tensor of torch's own class. Waits for a device if the class is another."""
    if not dispatches([x]):
        return x
    return torch.tensor([n.item() for n in x.reshape(-1)], dtype=x.dtype, device=x.device).reshape(x.shape)


def is_unreadable(x: Tensor) -> bool:
    """Whether a tensor has a shape but no values: a meta or a fake one."""
    return x.is_meta or _is_fake(x)


def _is_fake(x: Tensor) -> bool:
    module = sys.modules.get("torch._subclasses.fake_tensor")
    return module is not None and isinstance(x, module.FakeTensor)


def check_as_traced(name: str, param: Tensor, x: Tensor) -> None:
    """Raise TypeError unless x and its parameter are both fake tensors or neither is, and for a functional tensor
    beside another parameter. torch's operations on such pairs fail, some of them after they have written.
    """
    if _is_fake(param) != _is_fake(x):
        must = "be a fake tensor, as its parameter is" if _is_fake(param) else "not be a fake tensor"
        raise TypeError(f"{name} must {must}, got {type(x).__name__}")
    if torch._is_functional_tensor(x) and not torch._is_functional_tensor(param):
        raise TypeError(f"{name} must not be a functional tensor, as its parameter is none")


def hold_values(*columns: Iterable[Tensor]) -> bool:
    """Whether all tensors own strided memory, with or without gaps, that holds their values."""
    return addresses(list(chain(*columns))) is not None


def addresses(tensors: Sequence[Tensor]) -> list[int] | None:
    """The address of the first value of each tensor; None unless all of them own memory that holds their values."""
    if dispatches(tensors) or not set(map(_layout, tensors)) <= _STRIDED or any(map(_is_nested, tensors)):
        return None
    dtypes = set(map(_dtype, tensors))
    if any(map(torch.Tensor.is_neg, tensors)) or not dtypes.isdisjoint(_QUANTIZED):
        return None
    if any(dtype.is_complex for dtype in dtypes) and any(map(torch.Tensor.is_conj, tensors)):
        return None
    return pointers(tensors)


def are_allocated(tensors: Sequence[Tensor]) -> bool:
    """Whether all tensors, of torch's own classes and strided, have memory. What it holds is not checked."""
    return pointers(tensors) is not None


def pointers(tensors: Sequence[Tensor]) -> list[int] | None:
    """The addresses of tensors of torch's own classes, strided and real, that are not lazily negated; None unless all
    of them have memory.
    """
    try:
        found = list(map(torch.Tensor.data_ptr, tensors))
    except RuntimeError:  # no storage, as of a tensor that functorch has wrapped
        return None
    if not all(found) and any(x.numel() > 0 for x, address in zip(tensors, found, strict=True) if address == 0):
        return None
    return found


def check_allocated(name: str, x: Tensor) -> None:
    """Raise RuntimeError if a tensor's memory has been freed, as wrappers do between two uses of a parameter, or if
    the tensor has outlived the functorch transform (vmap, grad) that made it.
    """
    if dispatches([x]) or addresses([x]) is not None:
        return
    try:
        freed = x.untyped_storage().nbytes() == 0 < x.numel()
    except NotImplementedError as error:
        raise RuntimeError(f"{name} has no memory: it belongs to a functorch transform, as of torch.func") from error
    if freed:
        raise RuntimeError(f"{name} has no memory: it was freed by untyped_storage().resize_(0)")


def check_writable(name: str, x: Tensor) -> None:
    """Raise RuntimeError if torch would refuse to write to a tensor: in the middle of a step that would be too late."""
    if x.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(f"{name} was made in torch.inference_mode, outside of which it cannot be updated")
    if x._is_zerotensor():
        raise RuntimeError(f"{name} is a tensor of zeros without memory, which cannot be updated")
    if overlaps_itself(x):
        raise RuntimeError(f"{name} must have an element of memory for each value, got strides {tuple(x.stride())}")


def overlaps_itself(x: Tensor) -> bool:
    """Whether several values of a tensor share one element of its memory, as of an expanded one."""
    return not x.is_contiguous() and torch._debug_has_internal_overlap(x) == 1
