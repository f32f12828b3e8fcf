"""Correct implementations that round differently. None may ever be rejected.

Each is Reference with a line or two evaluated in another order, contracted, widened, blocked or flushed, and with the
claims that such a backend would make.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np

from setadam_conformance.protocol import LayerState
from setadam_conformance.teeth.adams import ADAMS, Adam
from setadam_conformance.teeth.reference import Layer, Reference, Rows
from setadam_conformance.teeth.rounded import ByBits

R = Reference
IN_PLACE = replace(Reference.capabilities, in_place=True)
Sum = Callable[[Rows], Rows]


@dataclass(frozen=True)
class Variant:
    """A correct implementation."""

    name: str
    what: str
    adapter: type[Reference]


VARIANTS: dict[str, Variant] = {}


def _variant(name: str, what: str, claims: dict[str, Any] | None = None, **overrides: Callable[..., Any]) -> None:
    capabilities = replace(Reference.capabilities, **(claims or {}))
    members = {"name": f"variant:{name}", "capabilities": capabilities, **overrides}
    VARIANTS[name] = Variant(name, what, type(name, (Reference,), members))


def _of_adam(adapter: type[Adam]) -> Variant:
    what = (adapter.__doc__ or "").partition("\n")[0].removesuffix(".")
    return Variant(adapter.name.removeprefix("teeth:"), f"Adam, {what[0].lower()}{what[1:]}", adapter)


VARIANTS.update({variant.name: variant for variant in map(_of_adam, ADAMS)})
VARIANTS["rounded-by-bits"] = Variant("rounded-by-bits", "stochastic rounding by adding and cutting bits", ByBits)

_WIDER = {"float32": np.float64, "float64": np.longdouble}


def _wide(x: Rows) -> Rows:
    return x.astype(_WIDER[str(x.dtype)])


def _scalar(c: Layer, x: float) -> Any:
    """A coefficient rounded to the compute dtype, as NumPy rounds it before it is combined with an array."""
    return c.v.dtype.type(x)


def fma(a: Any, b: Rows, c: Rows) -> Rows:
    """a·b + c rounded once. In float32, through float64, which adds an error of at most 1 part in 2²⁹."""
    if c.dtype == np.float32:
        return (np.float64(a) * b + c).astype(np.float32)
    high = a * b
    low = _product_error(np.asarray(a, np.float64), b, high)
    total = high + c
    back = total - high
    exact = np.isfinite(low) & np.isfinite(total)
    return np.where(exact, total + ((high - (total - back)) + (c - back) + low), total)


def _product_error(a: Rows, b: Rows, high: Rows) -> Rows:
    """The rounding error a·b - fl(a·b), exact if nothing overflows or underflows (Dekker)."""
    (a1, a2), (b1, b2) = _split(a), _split(b)
    error = a2 * b2 - (((high - a1 * b1) - a2 * b1) - a1 * b2)
    return np.where(np.abs(high) > 1e-280, error, 0.0)


def _split(x: Rows) -> tuple[Rows, Rows]:
    big = x * 134217729.0
    high = big - (big - x)
    return high, x - high


# Summation orders. Each takes rows and returns one sum for each row.


def _tree(x: Rows) -> Rows:
    while x.shape[1] > 1:
        even, odd = x[:, 0::2], x[:, 1::2]
        x = np.concatenate([even[:, : odd.shape[1]] + odd, even[:, odd.shape[1] :]], axis=1)
    return x


def _chain(x: Rows) -> Rows:
    return np.cumsum(x, axis=1, dtype=x.dtype)[:, -1:]


def _lanes(x: Rows, lanes: int = 8) -> Rows:
    """Running sums in `lanes` strided lanes."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % lanes)))
    return np.cumsum(padded.reshape(len(x), -1, lanes), axis=1, dtype=x.dtype)[:, -1]


def _blocks(x: Rows) -> Rows:
    """Blocks of 128 in eight lanes each; the blocks are added as a tree."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % 128)))
    each = _tree(_lanes(padded.reshape(-1, 128)))
    return _tree(each.reshape(len(x), -1))


def _two_levels(x: Rows) -> Rows:
    """As GPU threads sum: chains of 16, warps of 32 as trees, and a tree of warps."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % 16)))
    return _tree(_chain(padded.reshape(-1, 16)).reshape(len(x), -1))


def _kahan(x: Rows) -> Rows:
    total, lost = x[:, :1] * 0, x[:, :1] * 0
    for i in range(x.shape[1]):
        term = x[:, i : i + 1] - lost
        new = total + term
        total, lost = new, (new - total) - term
    return total


def _sums(order: Sum) -> Callable[..., Rows]:
    return lambda s, c, x: order(x)


_variant("plain", "the reference itself")
_variant(
    "fma",
    "products contracted into the sums that follow",
    moment1=lambda s, c, g: fma(_scalar(c, c.hp.beta1), c.m, _scalar(c, 1 - c.hp.beta1) * g),
    moment2=lambda s, c, g: fma(_scalar(c, c.hp.beta2), c.v, _scalar(c, 1 - c.hp.beta2) * (g * g)),
    translate=lambda s, c, w: fma(-_scalar(c, c.hp.tau), s.least(c, w) + 0 * w, w),
)
_variant(
    "fma-other-side",
    "the other product contracted",
    moment1=lambda s, c, g: fma(_scalar(c, 1 - c.hp.beta1), g, _scalar(c, c.hp.beta1) * c.m),
    moment2=lambda s, c, g: fma(_scalar(c, 1 - c.hp.beta2) * g, g, _scalar(c, c.hp.beta2) * c.v),
    subtract=lambda s, c, theta, u: fma(-1.0, u, theta),
)
_variant(
    "fma-update",
    "γv/(1-β₂ᵗ)+ε and θ - A·(m/w̃) contracted",
    denominator=lambda s, c, x: (
        np.sqrt(fma(_scalar(c, 1 / s.bias2(c)), x, 0 * x + c.hp.eps))
        if c.hp.eps_inside_sqrt
        else R.denominator(s, c, x)
    ),
    update=lambda s, c, m, w: m / w,
    subtract=lambda s, c, theta, q: fma(-_scalar(c, c.hp.lr / s.bias1(c)), q, theta),
)
_variant("sum-tree", "Σ as a binary tree", sum=_sums(_tree))
_variant("sum-blocks", "Σ in blocks of 128 with eight lanes", sum=_sums(_blocks))
_variant("sum-lanes", "Σ in 2048 strided lanes", sum=_sums(lambda x: _tree(_lanes(x, 2048))))
_variant("sum-threads", "Σ in chains of 16, then a tree", sum=_sums(_two_levels))
_variant(
    "sum-reversed",
    "NumPy's pairwise Σ, from the end",
    sum=_sums(lambda x: np.sum(np.ascontiguousarray(x[:, ::-1]), axis=1, keepdims=True, dtype=x.dtype)),
)
_variant("sum-sorted", "Σ from the largest down, as a tree", sum=_sums(lambda x: _tree(-np.sort(-x, axis=1))))
_variant("sum-chain", "Σ in one chain", {"reduction": "any"}, sum=_sums(_chain))
_variant(
    "sum-chain-descending",
    "Σ in one chain, from the largest down",
    {"reduction": "any"},
    sum=_sums(lambda x: _chain(-np.sort(-x, axis=1))),
)
_variant("sum-compensated", "Kahan's Σ", sum=_sums(lambda x: _kahan(x) if x.shape[1] <= 300 else _tree(x)))
_variant(
    "sum-wide", "Σ in wider accumulators", sum=_sums(lambda x: np.sum(_wide(x), axis=1, keepdims=True).astype(x.dtype))
)
_variant("all-wide", "all arithmetic wider, rounded at the end", load=lambda s, *args: _widened(R.load(s, *args)))
_variant(
    "lerp",
    "m + (1-β)(g-m), for both moments",
    moment1=lambda s, c, g: c.m + (1 - c.hp.beta1) * (g - c.m),
    moment2=lambda s, c, g: c.v + (1 - c.hp.beta2) * (g * g - c.v),
)
_variant(
    "lerp-turned-round",
    "g - β(g-m) where β is small, as in torch",
    moment1=lambda s, c, g: (
        g - (g - c.m) * (1 - _scalar(c, 1 - c.hp.beta1))
        if c.hp.beta1 < 0.5
        else c.m + _scalar(c, 1 - c.hp.beta1) * (g - c.m)
    ),
)
_variant("square-scaled-first", "((1-β₂)·g)·g", moment2=lambda s, c, g: c.hp.beta2 * c.v + ((1 - c.hp.beta2) * g) * g)
_variant(
    "minimum-through-v",
    "min w computed from min v",
    scale=lambda s, c, v: _noting(s, R.scale(s, c, v)),
    least=lambda s, c, w: R.denominator(s, c, np.min(s.memory["scaled"], axis=1, keepdims=True)),
)
_variant(
    "gamma-blue", "Blue's three scaled accumulators for Σv²", gamma=lambda s, c, v: _of_norms(s, c, v, _blue(s, c, v))
)
_variant("gamma-norms", "(Σv/√d/‖v‖)², the norm of v scaled", gamma=lambda s, c, v: _by_norm(s, c, v))
_variant("gamma-means", "mean² over mean of squares", gamma=lambda s, c, v: _by_means(s, c, v))
_variant(
    "gamma-dot",
    "Σ as dot products with ones and with itself",
    sum=_sums(
        lambda x: np.einsum("ij,j->i", x, np.ones(x.shape[1], x.dtype))[:, None] if x.shape[1] <= 64 else _tree(x)
    ),
)
_variant(
    "gamma-power-of-two",
    "v scaled by a power of two, not by its maximum",
    gamma=lambda s, c, v: R.gamma(s, c, v * _two_over(v)),
)
_variant("gamma-not-clamped", "γ may be rounded to more than 1", gamma=lambda s, c, v: _unclamped(s, c, v))
_variant(
    "flushing",
    "anything below the smallest normal number is zero",
    {"flushes_subnormals": True},
    load=lambda s, *args: _flushed_layer(R.load(s, *args)),
    store=lambda s, c, theta, m, v: R.store(s, c, *map(_flush, (theta, m, v))),
    **{
        name: (lambda method: lambda s, c, *x: _flush(method(s, c, *x)))(getattr(R, name))
        for name in (
            "gradient",
            "moment1",
            "moment2",
            "scale",
            "gamma",
            "sum",
            "denominator",
            "translate",
            "update",
            "decay",
        )
    },
)
_variant(
    "flushing-inputs",
    "inputs below the smallest normal number are zero",
    {"flushes_subnormals": True},
    load=lambda s, *args: _flushed_layer(R.load(s, *args)),
)
_variant(
    "reciprocals",
    "products with reciprocals for all divisions",
    denominator=lambda s, c, x: s.embed(c, x * _scalar(c, 1 / s.bias2(c))),
    update=lambda s, c, m, w: (c.hp.lr / s.bias1(c)) * (m * (1 / w)),
)
_variant(
    "reciprocal-root",
    "1/√ from a correctly rounded root",
    update=lambda s, c, m, w: m * ((c.hp.lr / s.bias1(c)) * (1 / w)),
)
_variant("update-A-over-D", "A/D·m", update=lambda s, c, m, w: (c.hp.lr / s.bias1(c)) / w * m)
_variant("update-m-over-D", "m/D·A", update=lambda s, c, m, w: m / w * (c.hp.lr / s.bias1(c)))
_variant("update-lr-last", "η·((m/(1-β₁ᵗ))/D)", update=lambda s, c, m, w: c.hp.lr * ((m / s.bias1(c)) / w))
_variant(
    "moments-corrected-first",
    "m̂ and v̂ before γ",
    scale=lambda s, c, v: s.gamma(c, v) * (v / s.bias2(c)),
    denominator=lambda s, c, x: s.embed(c, x),
    update=lambda s, c, m, w: c.hp.lr * (m / s.bias1(c)) / w,
)
_variant(
    "gamma-over-bias",
    "γ/(1-β₂ᵗ) as one factor",
    scale=lambda s, c, v: (s.gamma(c, v) / s.bias2(c)) * v,
    denominator=lambda s, c, x: s.embed(c, x),
)
_variant(
    "decay-subtracted",
    "θ - ηλθ",
    decay=lambda s, c, theta: theta - (c.hp.lr * c.hp.weight_decay) * theta if c.hp.decoupled_weight_decay else theta,
)
_variant(
    "decay-with-update",
    "θ - (ηλθ + u)",
    decay=lambda s, c, theta: theta,
    subtract=lambda s, c, theta, u: (
        theta - ((c.hp.lr * c.hp.weight_decay) * theta + u)
        if c.hp.decoupled_weight_decay and c.hp.weight_decay
        else theta - u
    ),
)
_variant(
    "bias-traced",
    "bias corrections in the compute dtype, from a t that is an array",
    {"traced_t": True},
    bias1=lambda s, c: _traced(c, c.hp.beta1),
    bias2=lambda s, c: _traced(c, c.hp.beta2),
)
_variant(
    "moments-recomputed",
    "the update computes its own moments, contracted",
    {"recomputes_moments": True},
    store=lambda s, c, theta, m, v: R.store(
        s, c, theta, R.moment1(s, c, s.gradient(c)), R.moment2(s, c, s.gradient(c))
    ),
    moment1=lambda s, c, g: fma(_scalar(c, c.hp.beta1), c.m, _scalar(c, 1 - c.hp.beta1) * g),
    moment2=lambda s, c, g: c.v + (1 - c.hp.beta2) * (g * g - c.v),
)
_variant(
    "blocked-in-place",
    "blocks of 16 coordinates, updated in place",
    {"in_place": True},
    update=lambda s, c, m, w: np.concatenate(
        [R.update(s, c, m[:, i : i + 16], w[:, i : i + 16]) for i in range(0, c.d, 16)], axis=1
    ),
    step_layer=lambda s, c: _in_place(s, c),
)
_variant(
    "counted-in-place",
    "all layers updated in place, t an array that is incremented in place",
    {"in_place": True},
    step=lambda s, p, g, st, hp, axes: step_in_place(s, p, g, st, hp, axes),
)


def _widened(c: Layer) -> Layer:
    c.theta, c.g, c.m, c.v = map(_wide, (c.theta, c.g, c.m, c.v))
    return c


def _noting(self: Reference, scaled: Rows) -> Rows:
    self.memory["scaled"] = scaled
    return scaled


def _powered(c: Layer, cos2: Rows, v: Rows) -> Rows:
    cos2 = np.where(np.any(v, axis=1, keepdims=True), np.minimum(cos2, 1), 1).astype(v.dtype)
    return cos2 if c.hp.cos_power == 2 else cos2 ** (c.hp.cos_power / 2)


def _of_norms(self: Reference, c: Layer, v: Rows, norm: Rows) -> Rows:
    """γ from ‖v‖, as (Σ(v/‖v‖))²/d, which never squares the scale of v."""
    safe = np.where(norm == 0, 1, norm)
    return _powered(c, self.sum(c, v / safe) ** 2 / c.d, v)


def _blue(self: Reference, c: Layer, v: Rows) -> Rows:
    """‖v‖ as LAPACK's nrm2 computes it: small, middle and large entries each have their own scale.

    Entries below 2⁻²⁶ of the row's largest do not change the sum, so the class of the largest entry decides.
    """
    info = np.finfo(v.dtype)
    low, high = 2.0 ** (info.minexp // 2 + info.nmant), 2.0 ** (info.maxexp // 2 - info.nmant)
    up, down = 2.0 ** (-(info.minexp // 2) + info.nmant + 8), 2.0 ** (-(info.maxexp // 2) - info.nmant)
    small, large = v < low, v > high
    s, m, b = (
        self.sum(c, (np.where(mask, v, 0) * k).astype(v.dtype) ** 2)
        for mask, k in ((small, up), (~small & ~large, 1.0), (large, down))
    )
    big = np.sqrt(b + (m * down) * down) / down
    middle = np.where(m == 0, np.sqrt(s) / up, np.sqrt(m + (s / up) / up))
    return np.where(b == 0, middle, big).astype(v.dtype)


def _by_norm(self: Reference, c: Layer, v: Rows) -> Rows:
    peak = np.max(v, axis=1, keepdims=True)
    safe = np.where(peak == 0, 1, peak)
    return _of_norms(self, c, v, peak * np.sqrt(self.sum(c, (v / safe) ** 2)))


def _by_means(self: Reference, c: Layer, v: Rows) -> Rows:
    peak = np.max(v, axis=1, keepdims=True)
    r = v / np.where(peak == 0, 1, peak)
    mean, square = self.sum(c, r) / c.d, self.sum(c, r * r) / c.d
    return _powered(c, mean * mean / square, v)


def _two_over(v: Rows) -> Rows:
    """The power of two that scales a row's largest entry to [½, 1), as two factors that are both in range."""
    _, exponent = np.frexp(np.max(v, axis=1, keepdims=True))
    limit = int(np.finfo(v.dtype).maxexp) - 2
    return np.ldexp(np.ones_like(v[:, :1]), np.clip(-exponent, -limit, limit))


def _unclamped(self: Reference, c: Layer, v: Rows) -> Rows:
    if c.hp.cos_power != 2:
        return R.gamma(self, c, v)
    peak = np.max(v, axis=1, keepdims=True)
    r = np.where(peak == 0, 1, v) / np.where(peak == 0, 1, peak)
    return (self.sum(c, r) / c.d) * (self.sum(c, r) / self.sum(c, r * r))


def _flush(x: Rows) -> Rows:
    return np.where(np.abs(x) < np.finfo(x.dtype).smallest_normal, x.dtype.type(0), x)


def _flushed_layer(c: Layer) -> Layer:
    c.theta, c.g, c.m, c.v = map(_flush, (c.theta, c.g, c.m, c.v))
    return c


def _traced(c: Layer, beta: float) -> Any:
    if not beta:
        return 1.0
    return -np.expm1(c.v.dtype.type(c.t) * c.v.dtype.type(log(beta)))


def _in_place(self: Reference, c: Layer) -> Any:
    param, state = R.step_layer(self, c)
    given, _, before = c.given
    for old, new in ((given, param), (before.m, state.m), (before.v, state.v)):
        old[...] = new
    return given, before._replace(t=state.t)


def step_in_place(
    self: Reference, params: Any, grads: Any, states: Any, hp: Any, axes: Any
) -> tuple[list[Any], list[LayerState]]:
    """A step that checks all layers, updates the given arrays, and counts in place if t is an array."""
    new, after = R.step(self, params, grads, [s._replace(t=int(s.t)) for s in states], hp, axes)
    kept = []
    for param, state, p, s in zip(params, states, new, after, strict=True):
        t: Any = state.t if isinstance(state.t, np.ndarray) else np.array(0)
        for old, value in ((param, p), (state.m, s.m), (state.v, s.v), (t, s.t)):
            old[...] = value
        kept.append(LayerState(state.m, state.v, t))
    return list(params), kept
