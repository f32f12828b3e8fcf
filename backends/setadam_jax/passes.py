"""The step of one leaf, in a form for which XLA reads the second moment as rarely as possible.

On a CPU, XLA makes one pass over memory for each reduction, stores what two reductions share, and applies each
operation to all layers before the next operation. As the specification has it, a step moves 18 words per coordinate;
`optax.adam` moves 10, and the form below 13.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from setadam_core import Hyperparameters, spec
from setadam_core.layers import Layer
from setadam_core.parts import Parts, combine, denominator

_GROUP = 16  # the most additions that LLVM unrolls, which makes one vectorized loop
_SMALL = 2**15  # coordinates; smaller arrays stay in the cache of a core anyway


class Leaf(NamedTuple):
    """The results of a step of one leaf, with the names of `setadam_core.Trace`: real, in the compute dtype."""

    m: Any
    v: Any
    w_min: Any
    update: Any


def step(grad: Any, m: Any, v: Any, t: Any, layer: Layer, hp: Hyperparameters) -> Leaf:
    """`spec.trace` from g to the update, with its reductions in another order. t counts this step.

    min w is computed from min v, so w does not have to be stored and read again.
    """
    if v.size == 0:  # min v is +∞, and the derivatives with respect to ε, τ and β₂ would be NaN
        return Leaf(m, v, v, v)
    c, g = layer.coefficient, layer.real(grad)
    m = c(hp.beta1) * m + c(1 - hp.beta1) * g
    v = c(hp.beta2) * v + c(1 - hp.beta2) * (g * g)
    gamma, v_min = gamma_and_min(v, layer, hp.cos_power)
    w_shifted, w_min = denominator(v, gamma, v_min, t, layer, hp)
    return Leaf(m, v, w_min, c(hp.lr / spec.bias_correction(hp.beta1, t, layer)) * m / w_shifted)


def gamma_and_min(v: Any, layer: Layer, power: float) -> tuple[Any, Any]:
    """γ as of `spec.down_scaling`, and min v, keeping the layer's axes. The sums are restated here; `parts.combine`
    does the rest.

    The sums are those of v · 4/max v, since XLA divides by multiplying with the reciprocal, and 1/max v would underflow
    at the upper end of the dtype's range.
    """
    if power == 0 or layer.size == 0:
        # XLA's minimum on a CPU skips NaN from 4,096 coordinates up (JAX 0.10), and here no sum would carry it along.
        nans = layer.sum(jnp.isnan(v).astype(v.dtype))
        return spec.down_scaling(v, layer, power), jnp.where(nans > 0, jnp.nan, layer.min(v)).astype(v.dtype)
    # γ does not depend on the scale, so the derivative with respect to it is 0; computing it would overflow.
    high, low = jax.lax.stop_gradient(layer.max(v)), layer.min(v)
    scale = 4 / jnp.maximum(high, 16 * jnp.finfo(v.dtype).smallest_normal)
    s1, s2 = _sum_and_sum_of_squares(v, scale, layer)
    return combine(Parts(*(x[None] for x in (high, s1, s2, low))), layer.size, power)


def _sum_and_sum_of_squares(v: Any, scale: Any, layer: Layer) -> tuple[Any, Any]:
    """Σ v·scale and Σ (v·scale)² of each layer, without an intermediate array."""
    axis = next((axis for axis in layer.axes if v.shape[axis] % _GROUP == 0), None)
    if axis is None or not is_large(v):
        # To XLA, the factor behind the barrier is another one, so that it does not store v·scale for both sums.
        apart = jax.lax.optimization_barrier(scale)
        return layer.sum(v * scale), layer.sum((v * apart) ** 2)
    # Both sums of each group in one loop, and then the sums over the groups.
    r = (v * scale).reshape(*v.shape[:axis], -1, _GROUP, *v.shape[axis + 1 :])
    zero = jnp.zeros((), v.dtype)
    sums = jax.lax.reduce((r, r * r), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (axis + 1,))
    return layer.sum(sums[0]), layer.sum(sums[1])


def in_turn(moment: Any, previous: Any) -> Any:
    """The moment, unchanged, but available only after `previous`, the w_min of the large leaf before this one.

    So the operations on one large leaf follow each other, while it is in the cache. XLA cannot know that w_min is never
    negative, so it keeps the dependency. Outside `jax.jit`, operations are executed in this order anyway.
    """
    if previous is None or not is_large(moment) or not isinstance(moment, jax.core.Tracer):
        return moment
    return moment * jnp.where(previous.reshape(-1)[0] < 0, 0, 1).astype(moment.dtype)


def is_large(x: Any) -> bool:
    """True if these forms are faster for an array. They split an axis, which would gather an array that is spread over
    devices; and on other devices than a CPU, XLA fuses the reductions by itself.
    """
    return bool(x.size >= _SMALL) and jax.default_backend() == "cpu" and jax.device_count() == 1
