"""The step in plain NumPy: two passes over memory, each in blocks that fit the cache.

The first pass updates the moments and computes the `Parts` for γ and min w; the second updates θ. This restates
`setadam_core.spec.trace` with `out=`: operations on whole arrays have twice the memory traffic, and temporaries of a
layer's size. Here the temporaries are two scratch arrays of one block, reused for every block and step.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from setadam_core.inplace.layout import Arrays, Task, arranged
from setadam_core.layers import Array
from setadam_core.parts import Parts, combine
from setadam_core.spec import bias_correction, embed_epsilon

BLOCK = 1 << 16  # coordinates; with smaller blocks, the calls cost more than the cache saves


class Scratch:
    """Two arrays of one block in each compute dtype, allocated when first needed."""

    def __init__(self) -> None:
        self._memory: dict[Any, Array] = {}

    def pair(self, like: Array, dtype: Any) -> tuple[Array, Array]:
        """Two contiguous arrays of a block's shape, with arbitrary values."""
        if dtype not in self._memory:
            self._memory[dtype] = np.empty((2, BLOCK), dtype)
        first, second = self._memory[dtype]
        return first[: like.size].reshape(like.shape), second[: like.size].reshape(like.shape)


def step_layers(task: Task, scratch: Scratch) -> None:
    """Update theta, m and v of a parameter, one layer at a time, or several small layers at a time."""
    arrays, outer = arranged(task)
    shape = arrays[0].shape
    if outer == 0:
        _step([_at(arrays, cut) for cut in _cuts(shape, BLOCK)], 0, task, scratch)
    elif 2 * task.layer.size > BLOCK:
        for index in np.ndindex(shape[:outer]):
            one = _at(arrays, index)
            _step([_at(one, cut) for cut in _cuts(one[0].shape, BLOCK)], 0, task, scratch)
    else:
        for cut in _cuts(shape[:outer], BLOCK // task.layer.size):
            some = _at(arrays, cut)
            _step([some], some[0].ndim - (len(shape) - outer), task, scratch)


def _cuts(shape: Sequence[int], limit: int) -> Iterator[tuple[Any, ...]]:
    """Indices that divide an array into blocks of at most limit elements, in memory order."""
    inner = math.prod(shape[1:])
    if inner * math.prod(shape[:1]) <= limit:
        yield ()
    elif inner > limit:
        for i in range(shape[0]):
            yield from ((i, *rest) for rest in _cuts(shape[1:], limit))
    else:
        rows = limit // inner
        yield from ((slice(i, i + rows),) for i in range(0, shape[0], rows))


def _at(arrays: Arrays, index: tuple[Any, ...]) -> Arrays:
    return [x[(*index, ...)] for x in arrays]  # with `...`, a view even of a single element


def _step(blocks: list[Arrays], outer: int, task: Task, scratch: Scratch) -> None:
    """The step of one layer in blocks, or of one block of layers along its first ``outer`` axes."""
    hp, dtype = task.hp, task.layer.dtype
    parts = Parts(*map(np.stack, zip(*(_moments(block, outer, task, scratch) for block in blocks), strict=True)))
    gamma, v_min = combine(parts, task.layer.size, hp.cos_power)
    along = (*np.shape(gamma), *(1,) * (blocks[0][0].ndim - outer)) if outer else ()
    scale = np.reshape(gamma / bias_correction(hp.beta2, task.t, task.layer), along).astype(dtype)
    # min w is w of min v to the bit, since √ is monotone.
    w_min = embed_epsilon(np.reshape(v_min, along).astype(dtype) * scale, hp.eps, task.layer, hp)
    for block in blocks:
        _descend(block, scale, w_min, task, scratch)


def _moments(block: Arrays, outer: int, task: Task, scratch: Scratch) -> list[Array]:
    """Update m and v; return the `Parts` of each layer."""
    theta, g, m, v = block
    hp = task.hp
    term, own = scratch.pair(v, v.dtype)
    decays = hp.decays and not hp.decoupled_weight_decay
    if g.dtype != v.dtype or hp.maximize or decays:  # the gradient itself is never written
        np.copyto(own, g)
        g = np.negative(own, out=own) if hp.maximize else own
    if decays:
        np.copyto(term, theta)
        term *= hp.weight_decay
        g += term
    m *= hp.beta1
    m += np.multiply(g, 1 - hp.beta1, out=term)
    np.multiply(g, g, out=term)
    term *= 1 - hp.beta2
    v *= hp.beta2
    v += term

    axes = tuple(range(outer, v.ndim))
    high, low = v.max(axis=axes, keepdims=True), v.min(axis=axes, keepdims=True)
    r = np.divide(
        v, np.where(high == 0, 1, high), out=term
    )  # relative to its maximum, so that no square under- or overflows
    layers = r.reshape(*v.shape[:outer], -1)  # contiguous along a layer, where NumPy uses pairwise summation
    s1 = layers.sum(axis=-1, dtype=v.dtype)
    s2 = np.multiply(layers, layers, out=layers).sum(axis=-1, dtype=v.dtype)
    return [np.asarray(x, np.float64).reshape(v.shape[:outer]) for x in (high, s1, s2, low)]


def _descend(block: Arrays, scale: Any, w_min: Any, task: Task, scratch: Scratch) -> None:
    """Update theta."""
    theta, _, m, v = block
    hp = task.hp
    w, wide = scratch.pair(v, v.dtype)
    np.multiply(v, scale, out=w)
    if hp.eps_inside_sqrt:
        w += hp.eps
    np.sqrt(w, out=w)
    if not hp.eps_inside_sqrt:
        w += hp.eps
    w -= hp.tau * w_min
    np.divide(m, w, out=w)
    w *= hp.lr / bias_correction(hp.beta1, task.t, task.layer)
    new = theta
    if theta.dtype != v.dtype:
        new = wide
        np.copyto(new, theta)
    if hp.decays and hp.decoupled_weight_decay:
        new *= 1 - hp.lr * hp.weight_decay
    new -= w
    if new is not theta:
        np.copyto(theta, new, casting="same_kind")
