"""The loop of `dlpack`, compiled by Numba: it looks up all tensors of a step and describes them to the kernel.

Why it is worth its strangeness: a step of 1,000 layers of 64 coordinates takes 2.5 ms with it and 18 ms with the checks
of `setadam_torch.checks.in_bulk` in its place, as Python then reads some twenty attributes of each layer.

How to read it. Numba compiles the functions below to machine code, in which a Python object is nothing but its
address, an integer. Three things look unusual:

- `types.ExternalFunction("PyList_GetItem", …)` declares a C function of Python itself, by its name and the types of its
  result and arguments. Calling it is what Python does for ``list[i]``.
- An `intrinsic` is a function for which Numba has no word, written as the instruction that LLVM, its compiler, is to
  emit. There are two: to call a C function at an address, and to prefetch a cache line.
- `carray(pointer(address, x), n)` is the array of n numbers of x's type at an address.

The loop holds the GIL throughout, so no list, dict or tensor changes under it. It keeps a reference to no object: all
are kept alive by the lists that it is given.

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
CPU, CUDA = 1, 2  # types of devices
NDIM = (1 << 32) - 1

THETA, GRAD, M, V, STEP = range(5)  # rows: the tensors of a layer
AHEAD = 8  # how many tensors ahead of use to prefetch

# Python's C functions. An object is its address, as `id` gives it; a result is "borrowed" if it need not be released.
_address = types.intp
_list_item = types.ExternalFunction("PyList_GetItem", _address(_address, types.intp))  # borrowed
_dict_item = types.ExternalFunction("PyDict_GetItem", _address(_address, _address))  # borrowed; 0 if there is none
_call_object = types.ExternalFunction("PyObject_CallOneArg", _address(_address, _address))  # 0 for an exception
_type_of = types.ExternalFunction("PyObject_Type", _address(_address))
_release = types.ExternalFunction("Py_DecRef", types.void(_address))
_clear_error = types.ExternalFunction("PyErr_Clear", types.void())


@intrinsic
def _call(typing: Any, function: Any, tensor: Any, answer: Any) -> Any:
    """``function(tensor, answer)`` in C, given three addresses; returns the status, 0 for success."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [x.type for x in args[1:]])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.int32(_address, _address, _address), generate


@intrinsic
def _prefetch(typing: Any, address: Any) -> Any:
    """Load the cache line at an address, which need not be one."""

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
    describe: Any,
    is_neg: Any,
    false: Any,
    lists: Any,
    names: Any,
    plain: Any,
    device: Any,
    wanted: Any,
    table: Any,
    sizes: Any,
) -> Any:
    """Fill the table with the addresses of θ, g, m, v and step count of each layer, and sizes with their
    numbers of coordinates. False unless all tensors are as `dlpack.locate` says.

    describe: the address of DLPack's function. is_neg, false: the objects torch.Tensor.is_neg and False. lists: of
    parameters, gradients and states, all as long as sizes. names: the keys of a state. plain: the two types that are
    allowed. device: of all tensors, as in DEVICE. wanted: the dtype of each row of the table.
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
            if answers[row, DEVICE] != device or answers[row, KIND] >> 32 != wanted[row]:
                return False
            if _returned(is_neg, tensor) != false:  # DLPack does not say
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
            if answers[row, DATA] == 0 and (sizes[layer] > 0 or row == STEP):  # it has no memory, or it was freed
                return False
        if device == CPU and not carray(pointer(table[STEP, layer], 0.0), 1)[0] >= 0:  # NaN is refused, too
            return False
    return True


@njit
def _gather(lists: Any, names: Any, plain: Any, tensors: Any) -> Any:
    """Write the addresses of all tensors, layer by layer. False if one is missing or of another type."""
    for layer in range(tensors.size // 5):
        state = _list_item(lists[2], layer)
        for row in range(5):
            tensor = _list_item(lists[row], layer) if row <= GRAD else _dict_item(state, names[row - M])
            if tensor == 0:
                _clear_error()
                return False
            kind = _type_of(tensor)
            _release(kind)  # its instance keeps it alive
            if kind != plain[0] and kind != plain[1]:
                return False
            tensors[5 * layer + row] = tensor
    return True


@njit
def _answer(describe: Any, tensor: Any, answer: Any) -> Any:
    if _call(describe, tensor, answer) == 0:
        return True
    _clear_error()
    return False


@njit
def _returned(method: Any, tensor: Any) -> Any:
    """What ``method(tensor)`` returns, True or False, which are never freed; 0 for an exception."""
    result = _call_object(method, tensor)
    if result == 0:
        _clear_error()
    else:
        _release(result)
    return result


@njit
def _look_ahead(tensors: Any, index: Any) -> Any:
    """Prefetch what torch will read of a tensor: of thousands, most are not in the cache. The third word of the Python
    object points to the tensor in C++. If that changes, this gains nothing and breaks nothing.
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
    """Whether strides, in coordinates, are those of an array without gaps. An axis of length 1 may have any."""
    if shape.prod() == 0:
        return True
    expected = 1
    for axis in range(shape.size - 1, -1, -1):
        if shape[axis] != 1 and strides[axis] != expected:
            return False
        expected *= shape[axis]
    return True
