"""Where the layers of a step lie in memory, found out in one compiled loop.

Python reads an attribute of a tensor in 50 to 100 ns, and a step needs some twenty of each layer: more than
the kernel takes for a small one. DLPack's exchange API describes a tensor, whole, in as long. The loop asks
it about all tensors of a step, and answers for almost every step that all is well. Needs Numba.
"""

import ctypes
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

# For the loop an object is its address; that they are here keeps them alive.
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
    counts float64; if all are torch's own tensors in C's order on the CPU, those of a layer of one shape, and
    their memory holds the values that they stand for. Otherwise, or where in doubt, None.
    """
    describe, name = _describe(), str(dtype).removeprefix("torch.")
    if describe is None or name not in _CODES:
        return None
    stored, computed = _CODES[name], _CODES[COMPUTE_DTYPE[name]]
    wanted = np.array([stored, stored, computed, computed, _CODES["float64"]])
    table, sizes = np.empty((5, len(params)), np.int64), np.empty(len(params), np.int64)
    lists = np.array([id(params), id(grads), id(states)])
    if not dlpack_loop.locate(describe, id(_IS_NEG), id(False), lists, _NAMES, _TYPES, wanted, table, sizes):
        return None
    return Located(kernel.Layers(table[:4], sizes, name), table[4])


class _ExchangeAPI(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        *((name, ctypes.c_void_p) for name in ("previous", "allocate", "export", "adopt", "describe", "stream")),
    ]


@lru_cache
def _describe() -> int | None:
    """The address of torch's ``dltensor_from_py_object_no_sync``; None where there is none of this version."""
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    prototype = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    pointer = prototype(("PyCapsule_GetPointer", ctypes.pythonapi))
    api = _ExchangeAPI.from_address(pointer(capsule, b"dlpack_exchange_api"))
    return api.describe if api.major == VERSION else None
