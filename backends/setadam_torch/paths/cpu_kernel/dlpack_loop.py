"""The loop of `_dlpack`, compiled by Numba: what it asks of Python, of torch, and what of the answers it wants.

A DLTensor is six words of 64 bits, as dlpack.h lays it out for a whole major version.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from setadam_numpy._compiled import cached, pointer

WORDS = 6
# DEVICE: its type in the lower half, its index in the upper. KIND: ndim in the lower half; code, bits and lanes of
# the dtype in the upper.
DATA, DEVICE, KIND, SHAPE, STRIDES, BYTE_OFFSET = range(WORDS)
CPU = 1
NDIM = (1 << 32) - 1

THETA, GRAD, M, V, STEP = range(5)  # rows: the tensors of a layer
AHEAD = 8  # tensors that the cache is bidden to fetch before it is their turn

# What the loop asks of Python, in whose C functions an object is its address, as for `id`.
_address = types.intp
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
def _prefetch(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        hint = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
        read, keep, data = number(0), number(3), number(1)
        builder.call(hint, [builder.inttoptr(args[0], pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(_address), generate


@cached(nogil=False)  # it calls Python
def locate(
    describe: Any, is_neg: Any, false: Any, lists: Any, names: Any, plain: Any, wanted: Any, table: Any, sizes: Any
) -> Any:
    """Fill the table with the addresses of θ, g, m, v and step count of each layer, and sizes with their
    numbers of coordinates. False unless all is as `_dlpack.locate` wants it.

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
            if _returned(is_neg, tensor) != false:  # which DLPack does not tell
                return False
            table[row, layer] = answers[row, DATA] + answers[row, BYTE_OFFSET]
        shape = _axes(answers, THETA, SHAPE)
        for row in range(STEP):
            if not _equal(_axes(answers, row, SHAPE), shape) or not _in_c_order(shape, _axes(answers, row, STRIDES)):
                return False
        if answers[STEP, KIND] & NDIM != 0:
            return False
        sizes[layer] = shape.prod()
        for row in range(5):
            if answers[row, DATA] == 0 and (sizes[layer] > 0 or row == STEP):  # it has no memory, or none any more
                return False
    return True


@njit
def _gather(lists: Any, names: Any, plain: Any, tensors: Any) -> Any:
    """The addresses of all tensors, layer by layer; false if one is missing or of another type."""
    for layer in range(tensors.size // 5):
        state = _list_item(lists[2], layer)
        for row in range(5):
            tensor = _list_item(lists[row], layer) if row <= GRAD else _dict_item(state, names[row - M])
            if tensor == 0:
                _forget_error()
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
        place = carray(pointer(tensors[index], np.int64(0)), 3)[2]
        for line in range(3):
            _prefetch(place + 64 * line)


@njit
def _axes(answers: Any, row: Any, which: Any) -> Any:
    return carray(pointer(answers[row, which], answers[row, which]), answers[row, KIND] & NDIM)


@njit
def _equal(a: Any, b: Any) -> Any:
    for axis in range(min(a.size, b.size)):
        if a[axis] != b[axis]:
            return False
    return a.size == b.size


@njit
def _in_c_order(shape: Any, strides: Any) -> Any:
    """Whether strides, in coordinates, are those of an array without gaps. Where there is but one, they are any."""
    if shape.prod() == 0:
        return True
    expected = 1
    for axis in range(shape.size - 1, -1, -1):
        if shape[axis] != 1 and strides[axis] != expected:
            return False
        expected *= shape[axis]
    return True
