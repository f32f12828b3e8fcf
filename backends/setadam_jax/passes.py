"""The steps of leaves, in a form in which XLA reads the moments rarely and starts few kernels.

On a CPU, XLA makes one pass over memory for each reduction, stores what two reductions share, and applies each
operation to all layers before the next operation. As the specification has it, a step moves 18 words per coordinate;
`optax.adam` moves 10, and the form below 11. Leaves that fit in a cache are limited by the number of kernels instead:
three for each leaf, as in `optax.adam`, and a few for all leaves of one size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from setadam_core import Hyperparameters, spec
from setadam_core.layers import Layer
from setadam_core.parts import Parts, combine

_GROUP = 16  # the most additions that LLVM unrolls, which makes one vectorized loop
_SCALE = 2.0**40  # puts float32 sums of v² in range for gradients of about 1e-11 to 50
_PART = 2**22  # coordinates; the sums of more are so large that their memory slows the pass down
_BATCH = 32  # leaves; the time to compile the copy of their v grows faster than their number
_SMALL = 2**15  # coordinates; smaller arrays stay in the cache of a core anyway
_STACKED = 2**17  # coordinates; starting the kernels of a larger leaf takes less time than a copy of its v


class Leaf(NamedTuple):
    """A leaf before a step: gradient, moments in the compute dtype, and how to compute on it."""

    grad: Any
    m: Any
    v: Any
    layer: Layer


class Stepped(NamedTuple):
    """The results of a step of one leaf, with the names of `setadam_core.Trace`: real, in the compute dtype."""

    m: Any
    v: Any
    update: Any


class _Scalars(NamedTuple):
    """What the update of a layer needs of it as a whole: w = √(scale · v + ε)."""

    scale: Any  # γ / (1-β₂ᵗ)
    w_min: Any


def steps(leaves: Sequence[Leaf], t: Any, hp: Hyperparameters) -> list[Stepped]:
    """`spec.trace` from g to the update, for each leaf. t counts this step."""
    moments: list[tuple[Any, Any]] = []
    scalars: dict[int, _Scalars] = {}
    groups: dict[Any, list[int]] = {}  # leaves of one size, by index
    previous = None  # the scalars of the last large leaf
    for i, leaf in enumerate(leaves):
        stacked = _can_be_stacked(leaf)
        m, v = _moments(leaf if stacked else _in_turn(leaf, previous), hp)
        moments.append((m, v))
        if stacked:
            groups.setdefault((v.size, v.dtype), []).append(i)
        elif v.size:
            scalars[i] = _scalars(v, t, leaf.layer, hp)
            previous = scalars[i] if is_large(v) else previous
    batches = [group[i : i + _BATCH] for group in groups.values() for i in range(0, len(group), _BATCH)]
    for group in batches:
        of_group = _scalars_of_many([moments[i][1] for i in group], t, leaves[group[0]].layer, hp)
        scalars |= dict(zip(group, of_group, strict=True))
    return [
        Stepped(m, v, _update(m, v, scalars[i], t, leaf.layer, hp) if v.size else v)
        for i, (leaf, (m, v)) in enumerate(zip(leaves, moments, strict=True))
    ]


def _moments(leaf: Leaf, hp: Hyperparameters) -> tuple[Any, Any]:
    c, g = leaf.layer.coefficient, leaf.layer.real(leaf.grad)
    m = c(hp.beta1) * leaf.m + c(1 - hp.beta1) * g
    v = c(hp.beta2) * leaf.v + c(1 - hp.beta2) * (g * g)
    return m, v


def _scalars(v: Any, t: Any, layer: Layer, hp: Hyperparameters) -> _Scalars:
    """Of each layer of a leaf, keeping the layer's axes.

    The division by 1-β₂ᵗ is done here, once: for each coordinate it would take as long as a square root. And min w is
    computed from min v, so w does not have to be stored and read again.
    """
    gamma, v_min = gamma_and_min(v, layer, hp.cos_power)
    scale = gamma / spec.bias_correction(hp.beta2, t, layer)
    return _Scalars(scale, spec.embed_epsilon(scale * v_min, layer.coefficient(hp.eps), layer, hp))


def _update(m: Any, v: Any, scalars: _Scalars, t: Any, layer: Layer, hp: Hyperparameters) -> Any:
    c = layer.coefficient
    w = spec.embed_epsilon(scalars.scale * v, c(hp.eps), layer, hp)
    w_shifted = spec.down_translate(w, scalars.w_min, c(hp.tau))
    return c(hp.lr / spec.bias_correction(hp.beta1, t, layer)) * m / w_shifted


def gamma_and_min(v: Any, layer: Layer, power: float) -> tuple[Any, Any]:
    """γ as of `spec.down_scaling`, and min v, keeping the layer's axes. The sums are restated here; `parts.combine`
    does the rest.

    Large leaves are summed on a fixed scale, which needs no pass for max v. Only if v turns out to be too far from it,
    they are summed once more.
    """
    if power == 0 or layer.size == 0:
        # XLA's minimum on a CPU skips NaN from 4,096 coordinates up (JAX 0.10), and here no sum would carry it along.
        nans = layer.sum(jnp.isnan(v).astype(v.dtype))
        return spec.down_scaling(v, layer, power), jnp.where(nans > 0, jnp.nan, layer.min(v)).astype(v.dtype)
    axis = next((axis for axis in layer.axes if v.shape[axis] % _GROUP == 0), None)
    if axis is None or layer.across is not None or not is_large(v):
        low, (high, scale) = layer.min(v), _scale(v, layer)
        # To XLA, the factor behind the barrier is another one, so that it does not store v·scale for both sums.
        apart = jax.lax.optimization_barrier(scale)
        s1, s2 = layer.sum(v * scale), layer.sum((v * apart) ** 2)
    else:
        s1, s2, low = _sums_and_min(v, _SCALE, axis, layer)
        # Σ (v·scale)² is accurate if it did not overflow, and if all that underflowed is far below its last bit.
        info = jnp.finfo(v.dtype)
        safe = (s2 <= info.max) & (s2 >= layer.size * info.smallest_normal / info.eps**2)

        def on_its_own_scale() -> tuple[Any, Any, Any]:
            high, scale = _scale(v, layer)
            return high, *_sums_and_min(v, scale, axis, layer)[:2]

        high, s1, s2 = jax.lax.cond(safe.all(), lambda: (jnp.ones_like(s1), s1, s2), on_its_own_scale)
    return combine(Parts(*(x[None] for x in (high, s1, s2, low))), layer.size, power)


def _scale(v: Any, layer: Layer) -> tuple[Any, Any]:
    """The largest v of each layer, and a power of two with which no sum of squares over- or underflows.

    Multiplying with it is exact, so γ does not depend on it. It is 4/max v, rounded, since 1/max v would underflow at
    the upper end of the dtype's range.
    """
    # So the derivative with respect to it is 0; computing it would overflow.
    high, info = jax.lax.stop_gradient(layer.max(v)), jnp.finfo(v.dtype)
    near = jnp.clip(high, 16 * info.smallest_normal, info.max / 4)
    return high, 4 / jax.lax.reduce_precision(near, info.nexp, 0)


def _sums_and_min(v: Any, scale: Any, axis: int, layer: Layer) -> tuple[Any, Any, Any]:
    """Σ v·scale, Σ (v·scale)² and min v of each layer, in one pass over v. The axis has a multiple of _GROUP."""
    parts = -(-v.size // _PART)
    if axis > 0 or parts == 1 or layer.size < v.size:
        return _of_part(v, scale, axis, layer)
    groups = v.shape[0] // _GROUP
    parts = next(n for n in range(min(parts, groups), groups + 1) if groups % n == 0)
    of_parts = jax.lax.map(lambda x: _of_part(x, scale, 0, layer), v.reshape(parts, -1, *v.shape[1:]))
    return of_parts[0].sum(0), of_parts[1].sum(0), of_parts[2].min(0)


def _of_part(v: Any, scale: Any, axis: int, layer: Layer) -> tuple[Any, Any, Any]:
    """`_sums_and_min` of an array that is not divided further."""
    # Neighbours are in different groups, so that the loop over a group reads whole vectors.
    x, r = (x.reshape(*v.shape[:axis], _GROUP, -1, *v.shape[axis + 1 :]) for x in (v, v * scale))
    zero, infinity = (jnp.asarray(x, v.dtype) for x in (0, jnp.inf))
    s1, s2, low = jax.lax.reduce((r, r * r, x), (zero, zero, infinity), _add_add_min, (axis,))
    return layer.sum(s1), layer.sum(s2), layer.min(low)


def _add_add_min(a: Any, b: Any) -> tuple[Any, Any, Any]:
    """The third is one instruction of the processor, since it drops a NaN; the sums keep it."""
    return a[0] + b[0], a[1] + b[1], jax.lax.select(a[2] < b[2], a[2], b[2])


def _can_be_stacked(leaf: Leaf) -> bool:
    """True if a leaf is one whole layer, and small enough that it is cheaper to copy v than to start more kernels."""
    whole = leaf.layer.size == leaf.v.size > 0 and leaf.layer.across is None
    return whole and _on_one_cpu() and leaf.v.size < _STACKED


def _scalars_of_many(vs: Sequence[Any], t: Any, layer: Layer, hp: Hyperparameters) -> list[_Scalars]:
    """The scalars of leaves of one size, of which each is one layer."""
    if len(vs) == 1:
        return [_scalars(vs[0], t, layer, hp)]
    rows = jnp.stack([v.reshape(-1) for v in vs])
    of_rows = _scalars(rows, t, layer._replace(axes=(1,)), hp)
    return [_Scalars(*(x[i].reshape((1,) * v.ndim) for x in of_rows)) for i, v in enumerate(vs)]


def _in_turn(leaf: Leaf, previous: _Scalars | None) -> Leaf:
    """The leaf, unchanged, but its moments are available only after `previous`, the scalars of the large leaf before.

    So the operations on one large leaf follow each other, while it is in the cache. XLA cannot know that w_min is never
    negative, so it keeps the dependency. Outside `jax.jit`, operations are executed in this order anyway.
    """
    if previous is None or not is_large(leaf.v) or not isinstance(leaf.v, jax.core.Tracer):
        return leaf
    one = jnp.where(previous.w_min.reshape(-1)[0] < 0, 0, 1)
    return leaf._replace(m=leaf.m * one.astype(leaf.m.dtype), v=leaf.v * one.astype(leaf.v.dtype))


def is_large(x: Any) -> bool:
    """True if an array is limited by memory, and split sums are faster."""
    return x.size >= _SMALL and _on_one_cpu()


def _on_one_cpu() -> bool:
    """Whether the forms for a CPU are used. They split and stack arrays, which would gather an array that is spread
    over devices; and on other devices than a CPU, XLA fuses the reductions by itself.
    """
    return bool(jax.default_backend() == "cpu" and jax.device_count() == 1)
