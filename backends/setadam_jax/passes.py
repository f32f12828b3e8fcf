"""The step of one leaf, in the form for which XLA reads the second moment least often.

On a CPU, XLA makes one pass over memory of each reduction, stores what two of them share, and takes each
operation through all layers before it begins the next. As written in the specification, a step makes
18 words of traffic a coordinate where `optax.adam` makes 10; in the forms below it makes 13.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from setadam_core import Hyperparameters, spec
from setadam_core.layers import Layer
from setadam_core.parts import Parts, combine, denominator

_GROUP = 16  # as many additions as LLVM still unrolls, which makes them one vectorized loop
_SMALL = 2**15  # coordinates; below that an array stays in the cache of a core, whatever is done to it


class Leaf(NamedTuple):
    """What a step makes of one leaf, as `setadam_core.Trace` has it: real, in the compute dtype."""

    m: Any
    v: Any
    w_min: Any
    update: Any


def step(grad: Any, m: Any, v: Any, t: Any, layer: Layer, hp: Hyperparameters) -> Leaf:
    """`spec.trace` from g to the update, restated for the order of its reductions; t counts this step.

    min w is w of min v, so w need not be stored to be read twice.
    """
    if v.size == 0:  # min v is +∞, which would make NaN of the derivatives by ε, τ and β2
        return Leaf(m, v, v, v)
    c, g = layer.coefficient, layer.real(grad)
    m = c(hp.beta1) * m + c(1 - hp.beta1) * g
    v = c(hp.beta2) * v + c(1 - hp.beta2) * (g * g)
    gamma, v_min = gamma_and_min(v, layer, hp.cos_power)
    w_shifted, w_min = denominator(v, gamma, v_min, t, layer, hp)
    return Leaf(m, v, w_min, c(hp.lr / spec.bias_correction(hp.beta1, t, layer)) * m / w_shifted)


def gamma_and_min(v: Any, layer: Layer, power: float) -> tuple[Any, Any]:
    """`spec.down_scaling` and min v, keeping the layer's axes: the sums restated, the rest `parts.combine`.

    The sums are taken of v · 4/max v: XLA divides by multiplying with the reciprocal, and 1/max v alone
    would underflow at the upper end of the dtype's range.
    """
    if power == 0 or layer.size == 0:
        return spec.down_scaling(v, layer, power), layer.min(v)
    # γ does not depend on the scale, so nor does its derivative, which would overflow on the way back.
    high, low = jax.lax.stop_gradient(layer.max(v)), layer.min(v)
    scale = 4 / jnp.maximum(high, 16 * jnp.finfo(v.dtype).smallest_normal)
    s1, s2 = _sum_and_sum_of_squares(v, scale, layer)
    return combine(Parts(*(x[None] for x in (high, s1, s2, low))), layer.size, power)


def _sum_and_sum_of_squares(v: Any, scale: Any, layer: Layer) -> tuple[Any, Any]:
    """Σ v·scale and Σ (v·scale)² of each layer, without an array in between."""
    axis = next((axis for axis in layer.axes if v.shape[axis] % _GROUP == 0), None)
    if axis is None or not is_large(v):
        # Behind the barrier the factor is another one to XLA, so that neither sum stores v·scale for the other.
        apart = jax.lax.optimization_barrier(scale)
        return layer.sum(v * scale), layer.sum((v * apart) ** 2)
    # Both sums of each group in one loop; then of the groups.
    r = (v * scale).reshape(*v.shape[:axis], -1, _GROUP, *v.shape[axis + 1 :])
    zero = jnp.zeros((), v.dtype)
    sums = jax.lax.reduce((r, r * r), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (axis + 1,))
    return layer.sum(sums[0]), layer.sum(sums[1])


def in_turn(moment: Any, previous: Any) -> Any:
    """The moment, unchanged, but not to be had before `previous`, a w_min of the large leaf before this one.

    So the operations on a large leaf follow each other while it is in the cache. What XLA cannot know is
    that w_min is never negative. Outside `jax.jit` operations are executed in this order anyway.
    """
    if previous is None or not is_large(moment) or not isinstance(moment, jax.core.Tracer):
        return moment
    return moment * jnp.where(previous.reshape(-1)[0] < 0, 0, 1).astype(moment.dtype)


def is_large(x: Any) -> bool:
    """Whether these forms pay for an array. They would gather one that several devices share, since they
    split an axis, and elsewhere than on a CPU, XLA fuses reductions by itself.
    """
    return bool(x.size >= _SMALL) and jax.default_backend() == "cpu" and jax.device_count() == 1
