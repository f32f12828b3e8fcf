"""Where many tensors lie in memory, found out in one compiled loop.

Python reads an attribute of a tensor in 50 to 100 ns, and a step needs some twenty of each layer: more than
the kernel takes for a small one. DLPack's exchange API describes a tensor, whole, in as long. The loop asks
it about all tensors of a step, and answers for almost every step that all is well. The layouts below are
those of dlpack.h, which keeps them for a whole major version. Needs Numba.
"""

import ctypes
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from setadam_core.layers import COMPUTE_DTYPE
from setadam_numpy import kernel
from setadam_torch import _mesh
from setadam_torch._layers import Tensors

VERSION = 1  # DLPack's major version

# A DLTensor as words of 64 bits. DEVICE: its type in the lower half, its index in the upper. KIND: ndim in the
# lower half; code, bits and lanes of the dtype in the upper.
DATA, DEVICE, KIND, SHAPE, STRIDES, BYTE_OFFSET = range(6)
WORDS = 6
CPU = 1
NDIM = (1 << 32) - 1
_CODES = {
    name: code | bits << 8 | 1 << 16
    for name, code, bits in (("float64", 2, 64), ("float32", 2, 32), ("float16", 2, 16), ("bfloat16", 4, 16))
}


class Located(NamedTuple):
    """Layers, and the addresses of their step counts, each a float64."""

    layers: kernel.Layers
    counts: kernel.Integers


def locate(
    dtype: Any, params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, steps: Tensors
) -> Located | None:
    """Where the layers lie, if parameters and gradients have the dtype, moments its compute dtype, and step
    counts float64; if all are torch's own tensors in C's order on the CPU, those of a layer of one shape, and
    their memory holds the values that they stand for. Otherwise, or where in doubt, None.
    """
    describe, name = _describe(), str(dtype).removeprefix("torch.")
    if describe is None or name not in _CODES or not _mesh.are_plain(params, grads, exp_avgs, exp_avg_sqs, steps):
        return None
    if any(map(torch.Tensor.is_neg, chain(params, grads))):
        return None
    layers, stored, computed = len(params), _CODES[name], _CODES[COMPUTE_DTYPE[name]]
    tensors = np.fromiter(chain(params, grads, exp_avgs, exp_avg_sqs, steps), object, 5 * layers)
    wanted = np.array([stored, stored, computed, computed, _CODES["float64"]])
    table, sizes = np.empty((5, layers), np.int64), np.empty(layers, np.int64)
    if not _locate(describe, tensors.__array_interface__["data"][0], wanted, table, sizes):
        return None
    return Located(kernel.Layers(table[:4], sizes, name), table[4])


class _ExchangeAPI(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        *((name, ctypes.c_void_p) for name in ("previous", "allocate", "export", "import", "describe", "stream")),
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


@intrinsic
def _ask(typing: Any, describe: Any, tensor: Any, answer: Any) -> Any:
    """Whether the function at an address could write the DLTensor of a Python object to another."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.IntType(32), [pointer, pointer]).as_pointer()
        tensor, answer = (builder.inttoptr(x, pointer) for x in args[1:])
        status = builder.call(builder.inttoptr(args[0], function), [tensor, answer])
        succeeded = builder.icmp_signed("==", status, ir.Constant(status.type, 0))
        with builder.if_then(builder.not_(succeeded)):
            context.get_python_api(builder).err_clear()  # it has set an exception
        return succeeded

    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def _words(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(types.int64), generate


def _cached(function: Any) -> Any:
    """Compiled, and kept on disk where there is a directory to keep it in. It holds the GIL."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # Numba found no directory that can be written
        return njit(function)


@_cached
def _locate(describe: Any, tensors: Any, wanted: Any, table: Any, sizes: Any) -> Any:
    """Fill the table with the addresses of θ, g, m, v and step count of each layer, and sizes with their
    numbers of coordinates. False unless all is as `locate` wants it.

    tensors: the address of as many PyObject*, in the table's order; wanted: the dtype of each row.
    """
    objects = carray(_words(tensors), table.shape)
    answers = np.empty((table.shape[0], WORDS), np.int64)
    for layer in range(sizes.size):
        for row in range(table.shape[0]):
            if not _ask(describe, objects[row, layer], answers.ctypes.data + row * WORDS * 8):
                return False
            if answers[row, DEVICE] != CPU or answers[row, KIND] >> 32 != wanted[row]:
                return False
            table[row, layer] = answers[row, DATA] + answers[row, BYTE_OFFSET]
        if answers[STEP, KIND] & NDIM != 0:
            return False
        shape = _axes(answers[THETA], SHAPE)
        for row in range(STEP):
            if not _equal(_axes(answers[row], SHAPE), shape) or not _in_c_order(shape, _axes(answers[row], STRIDES)):
                return False
        sizes[layer] = shape.prod()
    return True


THETA, STEP = 0, 4  # rows


@njit
def _axes(answer: Any, which: Any) -> Any:
    return carray(_words(answer[which]), answer[KIND] & NDIM)


@njit
def _equal(a: Any, b: Any) -> Any:
    if a.size != b.size:
        return False
    for i in range(a.size):  # noqa: SIM110
        if a[i] != b[i]:
            return False
    return True


@njit
def _in_c_order(shape: Any, strides: Any) -> Any:
    """Whether strides, in coordinates, are those of an array without gaps. Axes of one have any."""
    expected = 1
    for axis in range(shape.size - 1, -1, -1):
        if shape[axis] != 1 and strides[axis] != expected:
            return False
        expected *= shape[axis]
    return True
