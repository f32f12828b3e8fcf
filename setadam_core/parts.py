"""γ of a layer that is seen part by part: the blocks of a kernel, or the shards of several processes.

Each part is summed up on its own, on a scale of its own, so that no square under- or overflows. Put
together they give `spec.down_scaling` of the whole layer, to rounding.
"""

from typing import Any, NamedTuple

from array_api_compat import array_namespace

Array = Any


class Parts(NamedTuple):
    """What γ and the minimum need to know of the parts of a layer.

    float64 arrays of one shape: along axis 0 the parts, along any other axes several layers. A part
    without coordinates is (0, 0, 0, +∞).
    """

    high: Array  # the part's scale: max v, or a number near it; 0 only where max v = 0
    s1: Array  # Σ v / high, 0 where high = 0
    s2: Array  # Σ (v / high)²
    low: Array  # min v


def combine(parts: Parts, size: Any, power: float) -> tuple[Array, Array]:
    """γ = cosⁿ∠(v, 1) and min v of whole layers of ``size`` coordinates (one number, or one a layer).

    Whoever has the same parts in the same order gets the same bits. γ is 1 where v is all zero, and NaN
    where a part holds NaN or ∞, as in the specification.
    """
    xp = array_namespace(*parts)
    high, low = xp.max(parts.high, axis=0), xp.min(parts.low, axis=0)
    one, nothing = xp.ones_like(high), high == 0
    if power == 0:
        return one, low
    ratio = parts.high / xp.where(nothing, one, high)[None, ...]  # JAX can be told to promote no rank
    s1, s2 = _sum(parts.s1 * ratio), _sum(parts.s2 * (ratio * ratio))
    cos2 = xp.minimum((s1 / size) * (s1 / xp.where(nothing, one, s2)), one)
    gamma = xp.where(nothing, one, cos2)
    return (gamma if power == 2 else gamma ** (power / 2)), low


def _sum(x: Array) -> Array:
    """Σ along axis 0, halving it by elementwise additions: the order depends on nothing but the number of
    parts, where a library's own sum may go by threads or the width of its vectors.
    """
    xp = array_namespace(x)
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        x = xp.concat([x[:half, ...] + x[half : 2 * half, ...], x[2 * half :, ...]])
    return x[0, ...]
