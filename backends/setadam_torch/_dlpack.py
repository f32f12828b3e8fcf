"""Where the layers of a step lie in memory, found out in one compiled loop.

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
from setadam_torch._layers import Tensors

VERSION = 1  # DLPack's major version

# A DLTensor as words of 64 bits. DEVICE: its type in the lower half, its index in the upper. KIND: ndim in the
# lower half; code, bits and lanes of the dtype in the upper.
DATA, DEVICE, KIND, SHAPE, STRIDES, BYTE_OFFSET = range(6)
WORDS = 6
AHEAD = 4  # tensors
CPU = 1
NDIM = (1 << 32) - 1
_CODES = {
    name: code | bits << 8 | 1 << 16
    for name, code, bits in (("float64", 2, 64), ("float32", 2, 32), ("float16", 2, 16), ("bfloat16", 4, 16))
}

THETA, GRAD, M, V, STEP = range(5)  # rows: the tensors of a layer
_OF_STATE = "exp_avg", "exp_avg_sq", "step"  # the keys of the last three
_PLAIN = torch.Tensor, torch.nn.Parameter
_IS_NEG = torch.Tensor.is_neg


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
    if not _locate(describe, id(_IS_NEG), id(False), lists, _NAMES, _TYPES, wanted, table, sizes):
        return None
    return Located(kernel.Layers(table[:STEP], sizes, name), table[STEP])


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


# What the loop asks of Python, in whose C functions an object is its address, as for `id`.
_address = types.intp
_NAMES, _TYPES = (np.array([id(x) for x in objects]) for objects in (_OF_STATE, _PLAIN))
_list_item = types.ExternalFunction("PyList_GetItem", _address(_address, types.intp))  # borrowed
_dict_item = types.ExternalFunction("PyDict_GetItem", _address(_address, _address))  # borrowed; 0 if there is none
_call_object = types.ExternalFunction("PyObject_CallOneArg", _address(_address, _address))
_type_of = types.ExternalFunction("PyObject_Type", _address(_address))
_let_go = types.ExternalFunction("Py_DecRef", types.void(_address))
_forget_error = types.ExternalFunction("PyErr_Clear", types.void())


@intrinsic
def _call(typing: Any, function: Any, tensor: Any, answer: Any) -> Any:
    """Call the function at an address with two others; returns its status."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [x.type for x in args[1:]])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.int32(_address, _address, _address), generate


@intrinsic
def _words(typing: Any, address: Any) -> Any:
    """A pointer to what lies at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(_address), generate


@intrinsic
def _prefetch(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        hint = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
        read, keep, data = number(0), number(3), number(1)
        builder.call(hint, [builder.inttoptr(args[0], pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(_address), generate


def _cached(function: Any) -> Any:
    """Compiled, and kept on disk where there is a directory to keep it in. It holds the GIL."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # Numba found no directory that can be written
        return njit(function)


@_cached
def _locate(
    describe: Any, is_neg: Any, false: Any, lists: Any, names: Any, plain: Any, wanted: Any, table: Any, sizes: Any
) -> Any:
    """Fill the table with the addresses of θ, g, m, v and step count of each layer, and sizes with their
    numbers of coordinates. False unless all is as `locate` wants it.

    lists: those of parameters, gradients and states, of as many as there are sizes; names: the keys of a
    state; plain: types; wanted: the dtype of each row of the table.
    """
    tensors = np.empty(5 * sizes.size, np.intp)
    if not _gather(lists, names, plain, tensors):
        return False
    answers = np.empty((5, WORDS), np.int64)
    for layer in range(sizes.size):
        for row in range(5):
            tensor = tensors[5 * layer + row]
            _look_ahead(tensors, 5 * layer + row + AHEAD)
            if not _answer(describe, tensor, answers.ctypes.data + row * WORDS * 8):
                return False
            if answers[row, DEVICE] != CPU or answers[row, KIND] >> 32 != wanted[row]:
                return False
            if row <= GRAD and _returned(is_neg, tensor) != false:  # which DLPack does not tell
                return False
            table[row, layer] = answers[row, DATA] + answers[row, BYTE_OFFSET]
        shape = _axes(answers, THETA, SHAPE)
        for row in range(STEP):
            if not _equal(_axes(answers, row, SHAPE), shape) or not _in_c_order(shape, _axes(answers, row, STRIDES)):
                return False
        if answers[STEP, KIND] & NDIM != 0:
            return False
        sizes[layer] = shape.prod()
    return True


@njit
def _gather(lists: Any, names: Any, plain: Any, tensors: Any) -> Any:
    """The addresses of all tensors, layer by layer; false if one is missing or of another type."""
    for layer in range(tensors.size // 5):
        state = _list_item(lists[2], layer)
        for row in range(5):
            tensor = _list_item(lists[row], layer) if row <= GRAD else _dict_item(state, names[row - M])
            if tensor == 0:
                return False
            kind = _type_of(tensor)
            _let_go(kind)  # it is kept alive by its instance
            if kind != plain[0] and kind != plain[1]:
                return False
            tensors[5 * layer + row] = tensor
    return True


@njit
def _answer(describe: Any, tensor: Any, answer: Any) -> Any:
    if _call(describe, tensor, answer) == 0:
        return True
    _forget_error()
    return False


@njit
def _returned(method: Any, tensor: Any) -> Any:
    """What a method returns, which is kept alive elsewhere; 0 for an exception."""
    result = _call_object(method, tensor)
    if result == 0:
        _forget_error()
    else:
        _let_go(result)
    return result


@njit
def _look_ahead(tensors: Any, index: Any) -> Any:
    """Bid the cache fetch what torch will read of a tensor: thousands of them are no longer in it. A hint: after
    its header, the Python object points to the tensor in C++; if that changes, nothing is gained, or lost.
    """
    if index < tensors.size:
        place = _words(tensors[index])[2]
        for line in range(3):
            _prefetch(place + 64 * line)


@njit
def _axes(answers: Any, row: Any, which: Any) -> Any:
    return carray(_words(answers[row, which]), answers[row, KIND] & NDIM)


@njit
def _equal(a: Any, b: Any) -> Any:
    for axis in range(min(a.size, b.size)):
        if a[axis] != b[axis]:
            return False
    return a.size == b.size


@njit
def _in_c_order(shape: Any, strides: Any) -> Any:
    """Whether strides, in coordinates, are those of an array without gaps. Axes of one have any."""
    expected = 1
    for axis in range(shape.size - 1, -1, -1):
        if shape[axis] != 1 and strides[axis] != expected:
            return False
        expected *= shape[axis]
    return True
