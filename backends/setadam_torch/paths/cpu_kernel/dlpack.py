"""Where the layers of a step lie in memory, found in one compiled loop.

Python reads an attribute of a tensor in 50 to 100 ns, and a step needs some twenty of each layer: more than
the kernel takes for a small layer. DLPack's exchange API describes a whole tensor in the same time. The loop
asks it about all tensors of a step. Needs Numba.

The loop relies on C functions of Python and torch, so it runs only on the versions that it was tested on
(`is_tested`). Elsewhere `setadam_torch.checks.in_bulk` does its work, in more time.
"""

import ctypes
import sys
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from setadam_core.layers import COMPUTE_DTYPE
from setadam_numpy import kernel
from setadam_torch.checks.tensors import Tensors
from setadam_torch.paths.cpu_kernel import dlpack_loop

VERSION = 1  # DLPack's major version

_CODES = {  # of dtypes: code, bits and lanes
    name: code | bits << 8 | 1 << 16
    for name, code, bits in (("float64", 2, 64), ("float32", 2, 32), ("float16", 2, 16), ("bfloat16", 4, 16))
}

_WANTED = {  # of the five tensors of a layer, by the dtype of its parameter
    name: np.array([code, code, *[_CODES[COMPUTE_DTYPE[name]]] * 2, _CODES["float64"]]) for name, code in _CODES.items()
}

# To the loop an object is its address. These are kept alive here.
_PLAIN = torch.Tensor, torch.nn.Parameter
_OF_STATE = "exp_avg", "exp_avg_sq", "step"
_IS_NEG = torch.Tensor.is_neg
_TYPES, _NAMES = (np.array([id(x) for x in objects]) for objects in (_PLAIN, _OF_STATE))


class Located(NamedTuple):
    """Layers, and the addresses of their step counts, each a float64."""

    layers: kernel.Layers
    counts: kernel.Integers


def locate(dtype: Any, params: Tensors, grads: Tensors, states: list[Any]) -> Located | None:
    """Where the layers lie, if parameters and gradients have the dtype, moments its compute dtype, and step
    counts float64 and, on the CPU, no value below 0; if all are torch's own tensors in C's order on one device, the
    CPU or a CUDA device, those of a layer of one shape, and their memory holds their values. Otherwise, or where in
    doubt, None. There must be a parameter.
    """
    describe, name, device = _describe(), str(dtype).removeprefix("torch."), _device(params[0].device)
    if describe is None or device is None or name not in _CODES:
        return None
    table, sizes = np.empty((5, len(params)), np.int64), np.empty(len(params), np.int64)
    lists = np.array([id(params), id(grads), id(states)])
    plain = _NAMES, _TYPES
    if not dlpack_loop.locate(describe, id(_IS_NEG), id(False), lists, *plain, device, _WANTED[name], table, sizes):
        return None
    return Located(kernel.Layers(table[:4], sizes, name), table[4])


def _device(device: Any) -> int | None:
    """A device as DLPack writes it in one word: its type, and its index in the upper half."""
    if device.type == "cpu":
        return dlpack_loop.CPU
    if device.type == "cuda" and torch.version.hip is None:  # DLPack has another word for AMD's
        return dlpack_loop.CUDA | device.index << 32  # type: ignore[no-any-return]
    return None


class _ExchangeAPI(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        *((name, ctypes.c_void_p) for name in ("previous", "allocate", "export", "adopt", "describe", "stream")),
    ]


TESTED = {"python": ((3, 11), (3, 12), (3, 13)), "torch": ((2, 13),)}


def is_tested() -> bool:
    """Whether the loop was tested on this Python and torch. Free-threaded builds are excluded: nothing would keep
    lists and tensors as they are while the loop reads them.
    """
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    torch_version = tuple(map(int, torch.__version__.split(".")[:2]))
    return sys.version_info[:2] in TESTED["python"] and torch_version in TESTED["torch"]


@lru_cache
def _describe() -> int | None:
    """The address of torch's ``dltensor_from_py_object_no_sync``; None where it is absent, of another version, or
    untested.
    """
    if not is_tested():
        return None
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    prototype = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    pointer = prototype(("PyCapsule_GetPointer", ctypes.pythonapi))
    api = _ExchangeAPI.from_address(pointer(capsule, b"dlpack_exchange_api"))
    return api.describe if api.major == VERSION else None
