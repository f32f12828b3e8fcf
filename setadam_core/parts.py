"""γ of a layer that is seen part by part: the blocks of a kernel, or the shards of several processes.

Each part is summed up on its own scale, so that no square under- or overflows. The parts together give
`spec.down_scaling` of the whole layer, to rounding.
"""

from typing import Any, NamedTuple

from array_api_compat import array_namespace

from setadam_core.hyperparameters import Hyperparameters
from setadam_core.layers import Layer
from setadam_core.spec import bias_correction, down_translate, embed_epsilon

Array = Any


class Parts(NamedTuple):
    """What γ and the minimum need to know of the parts of a layer: four numbers each.

    float64 arrays of one shape: along axis 0 the parts, along any other axes several layers. A part
    without coordinates is (0, 0, 0, +∞).
    """

    high: Array  # the part's scale: max v, or a number near it; 0 only where max v = 0
    s1: Array  # Σ v / high, 0 where high = 0
    s2: Array  # Σ (v / high)²
    low: Array  # min v


def merge(parts: Parts, xp: Any = None) -> Parts:
    """Of all parts along axis 0 together. The same parts in the same order give the same bits.

    xp : their namespace, where it is known. torch.compile cannot look it up.
    """
    xp = array_namespace(*parts) if xp is None else xp
    if parts.high.shape[0] == 1:
        return Parts(*(x[0, ...] for x in parts))
    high, low = xp.max(parts.high, axis=0), xp.min(parts.low, axis=0)
    scale = xp.where(high == 0, xp.ones_like(high), high)
    ratio = parts.high / scale[None, ...]  # JAX can be told to promote no rank
    return Parts(high, _sum(parts.s1 * ratio, xp), _sum(parts.s2 * (ratio * ratio), xp), low)


def combine(parts: Parts, size: Any, power: float, xp: Any = None) -> tuple[Array, Array]:
    """γ = cosⁿ∠(v, 1) and min v of whole layers of ``size`` coordinates (one number, or one a layer), whose parts
    are along axis 0. xp: as in `merge`.

    γ is 1 where v is all zero, and NaN where a part holds NaN or ∞, as in the specification.
    """
    xp = array_namespace(*parts) if xp is None else xp
    high, s1, s2, low = merge(parts, xp)
    one, nothing = xp.ones_like(high), high == 0
    if power == 0:
        return one, low
    cos2 = xp.minimum((s1 / size) * (s1 / xp.where(nothing, one, s2)), one)
    gamma = xp.where(nothing, one, cos2)
    return (gamma if power == 2 else gamma ** (power / 2)), low


def denominator(v: Array, gamma: Array, low: Array, t: Any, layer: Layer, hp: Hyperparameters) -> tuple[Array, Array]:
    """w̃ and min w of a layer, or a part of it, given its new v and γ and min v of the whole layer.

    min w is w of min v: each operation is monotone, so the two are the same bit for bit.
    """
    c, bias_correction2 = layer.coefficient, bias_correction(hp.beta2, t, layer)
    w, w_min = (embed_epsilon(gamma * x / bias_correction2, c(hp.eps), layer, hp) for x in (v, low))
    return down_translate(w, w_min, c(hp.tau)), w_min


def _sum(x: Array, xp: Any) -> Array:
    """Σ along axis 0, halving it by elementwise additions: the order depends on nothing but the number of
    parts, where a library's own sum may go by threads or the width of its vectors.
    """
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        x = xp.concat([x[:half, ...] + x[half : 2 * half, ...], x[2 * half :, ...]])
    return x[0, ...]
