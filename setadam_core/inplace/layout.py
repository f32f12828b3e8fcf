"""One parameter's part of a step, and its arrays arranged by layer and by their order in memory."""

from typing import NamedTuple

from setadam_core.hyperparameters import Hyperparameters
from setadam_core.layers import Array, Layer

Arrays = list[Array]  # theta, grad, m, v, or the same part of each


class Task(NamedTuple):
    """One parameter's part of a step, checked. Arrays are real views (a complex one of shape s is real of
    shape s + (2,)); theta and grad in the parameter's dtype, m and v in the compute dtype.
    """

    theta: Array
    grad: Array
    m: Array
    v: Array
    t: int  # counts this step
    hp: Hyperparameters
    layer: Layer  # of the real views
    fused: bool | None  # True: the compiled kernel; False: not; None: where there is one


def arranged(task: Task) -> tuple[Arrays, int]:
    """The arrays with the axes between layers first, and the number of these axes. The axes within a layer follow in
    memory order. A single layer without gaps has one axis.
    """
    arrays: Arrays = [task.theta, task.grad, task.m, task.v]
    strides, inner = task.theta.strides, list(task.layer.axes)
    if task.layer.size == task.theta.size:  # the axes between layers have length 1, so there is one layer
        if all([x.flags.c_contiguous for x in arrays]):  # noqa: C419  # a list takes half the time
            return [x.reshape(-1) for x in arrays], 0
        inner = list(range(task.theta.ndim))
    outer = [axis for axis in range(task.theta.ndim) if axis not in inner]
    inner.sort(key=lambda axis: -abs(strides[axis]))
    if outer + inner != list(range(task.theta.ndim)):
        arrays = [x.transpose(outer + inner) for x in arrays]
    if not outer and all(x.flags.c_contiguous for x in arrays):  # in their own order
        arrays = [x.reshape(-1) for x in arrays]
    return arrays, len(outer)
