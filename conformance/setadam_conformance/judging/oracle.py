"""The oracle: the specification in wider arithmetic, and a bound on any correct rounding of it.

`moments` gives m and v from the inputs. `parameter` gives θ from m and v. Each comes with an elementwise forward error
bound. docs/bound.md derives every constant, under the name that it has here.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase, real_view
from setadam_conformance.cases.formats import (
    FORMATS,
    Arithmetic,
    Format,
    Wide,
    arithmetic_format,
    moment_format,
    neighbours,
)
from setadam_conformance.judging.memory import memory
from setadam_conformance.protocol import Capabilities

# w from a = γv/(1-β₂ᵗ) and a change of ε.
Embedding = Callable[[Wide, Any], Wide]


class Reference(NamedTuple):
    """The exact value, the largest error of a correct backend, and the coordinates where the bound holds: outside
    `judged`, an intermediate could overflow, or rounding could make w̃ zero.
    """

    value: Wide
    bound: Wide
    judged: np.ndarray[Any, np.dtype[np.bool_]]


class _Setting(NamedTuple):
    """What both stages use: arithmetic, formats, and the constants that follow from the claims."""

    wide: Arithmetic
    u: float
    tiny: float  # the largest error of an underflowing operation
    largest: float
    storage_u: float  # 0 where the parameter's format is the format of the arithmetic
    storage_tiny: float
    storage_largest: float
    moment_u: float  # 0 where the format of m and v is that of the arithmetic, or wider
    moment_tiny: float
    slack: float
    hp: dict[str, Any]  # the hyperparameters as the backend uses them


class _Correction(NamedTuple):
    """1-βᵗ and its relative error as the backend forms it."""

    value: Any
    error: float


_CACHE: dict[tuple[str, bool], Arithmetic] = {}


def arithmetic(compute: str, longdouble: bool | None = None) -> Arithmetic:
    key = (compute, bool(longdouble) if longdouble is not None else True)
    if key not in _CACHE:
        _CACHE[key] = Arithmetic(compute, longdouble)
    return _CACHE[key]


def _setting(case: Case, claims: Capabilities, wide: Arithmetic | None) -> _Setting:
    own, storage, moments = (
        arithmetic_format(case.dtype, claims),
        FORMATS[case.dtype],
        moment_format(case.dtype, claims),
    )
    wide = wide or arithmetic(own.name)
    flush = claims.flushes_subnormals

    def rounding(to: Format) -> tuple[float, float]:
        """The relative and absolute error of one rounding to a format that is narrower than the arithmetic."""
        return (to.u, to.smallest_normal if flush else to.smallest_subnormal) if to.u > own.u else (0.0, 0.0)

    in_float32 = {name: float(np.float32(case.hp[name])) for name in claims.float32_scalars}
    return _Setting(
        wide,
        own.u,
        own.smallest_normal if flush else own.smallest_subnormal,
        own.largest,
        *rounding(storage),
        storage.largest,
        *rounding(moments),
        1 + 64 * own.u + 8 * wide.u / own.u,
        {**case.hp, **in_float32},
    )


def _correction(beta: float, t: int, s: _Setting, claims: Capabilities) -> _Correction:
    """1-βᵗ for the step with this number."""
    value = s.wide.bias_correction(beta, t)
    in_double = s.u == FORMATS["float64"].u
    if claims.corrections == "accurate":
        # It is formed in double. For float64, that is the format of the arithmetic itself.
        return _Correction(value, 5 * s.u if claims.traced_t or in_double else s.u)
    in_float32 = claims.corrections == "cancelling" and not in_double
    u = FORMATS["float32" if in_float32 else "float64"].u
    power = 1 - float(value)
    exponent = abs(t * float(np.log(beta))) if beta else 0.0
    of_power = max(4 + 3 * exponent, t) + (t if in_float32 else 0)  # the last is the rounding of β
    return _Correction(value, of_power * u * power / float(value) + u + (s.u if s.u > u else 0))


def moments(
    case: Case, layer: LayerCase, claims: Capabilities, wide: Arithmetic | None = None
) -> tuple[Reference, Reference]:
    """References for m and v of one layer of the case."""
    if wide is None:
        found: tuple[Reference, Reference] = memory.recall(lambda: _moments(case, layer, claims), case, layer, claims)
        return found
    return _moments(case, layer, claims, wide)


def _moments(
    case: Case, layer: LayerCase, claims: Capabilities, wide: Arithmetic | None = None
) -> tuple[Reference, Reference]:
    s = _setting(case, claims, wide)
    u, tiny, array, hp = s.u, s.tiny, s.wide.array, s.hp
    theta, g = array(real_view(layer.param)), array(real_view(layer.grad))
    m0, v0 = array(layer.m), array(layer.v)
    decay = array(hp["weight_decay"])
    (beta1, dbeta1), (beta2, dbeta2) = (_forgetting(hp[name], case.t + 1, s, claims) for name in ("beta1", "beta2"))

    g = -g if hp["maximize"] else g
    dg = np.zeros_like(g)
    if decay and not hp["decoupled_weight_decay"]:
        g = g + decay * theta
        dg = 2 * u * np.abs(decay * theta) + u * np.abs(g) + tiny * (2 + np.abs(theta))

    m = beta1 * m0 + (1 - beta1) * g
    dm = u * (3 * beta1 * np.abs(m0) + (1 - beta1) * (4 * np.abs(g) + 3 * np.abs(m0)))
    dm = dm + (1 - beta1) * dg + tiny * (5 + np.abs(m0)) + dbeta1 * (np.abs(m0) + np.abs(g))
    dm = dm + s.moment_u * (np.abs(m) + dm) + s.moment_tiny
    v = beta2 * v0 + (1 - beta2) * g * g
    dv = u * (3 * beta2 * v0 + (1 - beta2) * (5 * g * g + 3 * v0))
    dv = dv + (1 - beta2) * (2 * np.abs(g) + dg) * dg + tiny * (4 + v0) + dbeta2 * (v0 + g * g)
    dv = dv + s.moment_u * (v + dv) + s.moment_tiny
    fits = np.asarray((np.abs(g) < s.largest / 8) & (g * g < s.largest / 8) & (v < s.largest / 8), bool)
    fits = fits & (np.abs(m) < s.storage_largest / 8) & (v < s.storage_largest / 8) if s.moment_u else fits
    return Reference(m, dm * s.slack, fits), Reference(v, dv * s.slack, fits)


def _forgetting(beta: float, t: int, s: _Setting, claims: Capabilities) -> tuple[Wide, float]:
    """The factor of the old moment in step t, and the absolute error that it has beside the roundings of `_moments`.

    If the state holds corrected moments, it is (β-βᵗ)/(1-βᵗ), and the new gradient's factor is (1-β)/(1-βᵗ).
    """
    if not claims.corrected_moments:
        # In float16, the new gradient's factor may be subnormal.
        return s.wide.array(beta), s.tiny if 1 - beta < s.tiny / s.u else 0.0
    correction = _correction(beta, t, s, claims)
    share = (1 - s.wide.array(beta)) / correction.value
    lost = 4 * s.u if claims.corrections != "accurate" else 0.0  # β-βᵗ and 1-(1-β)/(1-βᵗ) cancel
    return 1 - share, float(share) * correction.error + lost


def parameter(
    case: Case,
    layer: LayerCase,
    m_new: Any,
    v_new: Any,
    claims: Capabilities,
    wide: Arithmetic | None = None,
    moment_bounds: tuple[Wide, Wide] | None = None,
) -> Reference:
    """The reference for θ of one layer, given the moments that the backend returned.

    The backend may have used the moments before it rounded them to the ones it returned. A backend that claims
    `recomputes_moments` may have computed them a second time: the two may differ by twice the moments' bound.
    """
    if wide is None:
        found: Reference = memory.recall(
            lambda: _parameter(case, layer, m_new, v_new, claims, wide, moment_bounds),
            case,
            layer,
            claims,
            np.asarray(m_new),
            np.asarray(v_new),
        )
        return found
    return _parameter(case, layer, m_new, v_new, claims, wide, moment_bounds)


def before_rounding(
    case: Case, layer: LayerCase, m_new: Any, v_new: Any, claims: Capabilities, moment_bounds: tuple[Wide, Wide]
) -> Reference:
    """As `parameter`, before the rounding to the parameter's format. Overflow is not looked for."""
    return _parameter(case, layer, m_new, v_new, claims, None, moment_bounds, rounded=False)


def _parameter(
    case: Case,
    layer: LayerCase,
    m_new: Any,
    v_new: Any,
    claims: Capabilities,
    wide: Arithmetic | None,
    moment_bounds: tuple[Wide, Wide] | None,
    rounded: bool = True,
) -> Reference:
    s = _setting(case, claims, wide)
    u, tiny, array, sqrt, hp = s.u, s.tiny, s.wide.array, s.wide.sqrt, s.hp
    theta, m, v = array(real_view(layer.param)), array(m_new), array(v_new)
    lr, eps, tau, decay = (array(hp[name]) for name in ("lr", "eps", "tau", "weight_decay"))
    axes = layer.real_axes
    if m.size == 0:
        return Reference(theta, np.zeros_like(theta), np.ones(theta.shape, bool))
    one = _Correction(array(1.0), 0.0)
    first, second = one, one
    if not claims.corrected_moments:
        first, second = (_correction(hp[name], case.t + 1, s, claims) for name in ("beta1", "beta2"))
    fits = first.error < 0.5 and second.error < 0.5
    # With an uncorrected ε, √(1-β₂ᵗ) is a factor of the whole update, and not of v.
    outer, inner = (second, one) if claims.epsilon == "uncorrected" else (one, second)
    bc2 = inner.value

    dm, dv = u * np.abs(m) + tiny, u * v
    if s.moment_u:
        dm, dv = dm + s.moment_u * np.abs(m) + s.moment_tiny, dv + s.moment_u * v + s.moment_tiny
    if claims.recomputes_moments and moment_bounds is not None:
        dm, dv = (2 * bound for bound in moment_bounds)

    # S. The error of γ is common to the layer: it multiplies γv/bc2 by one factor κ.
    gamma, dgamma = _down_scaling(v, dv, axes, float(hp["cos_power"]), s, claims)
    common = dgamma + inner.error
    low = np.maximum(1 - common, 0)
    high = np.minimum(1 / np.maximum(1 - common, 1e-9), 1 / gamma)  # as γ ≤ 1
    high = np.maximum(high, 1) * (1 + 2 * inner.error)
    a = gamma * v / bc2
    da = gamma * dv / bc2 + tiny * (1 + 1 / bc2)

    # E, and each w's own error. `lost` is the part of ε that underflows in a narrow format.
    lost = tiny if eps < tiny / u else 0.0
    embed, own = _embedding(a, eps, _place_of_epsilon(hp, claims), u, sqrt)

    # T. w̃(κ) = w(κ) - τ min w(κ) rises with κ.
    def translated(kappa: Wide, up: float) -> Wide:
        w = embed(kappa * a + up * da, up * lost)
        if claims.is_elementwise:
            return np.asarray(w + up * w * (own + u))
        w_least = embed(_least(kappa * a - up * da, axes), -up * lost)
        error = w * own + tau * w_least * (_most(own, axes) + 2 * u) + u * np.abs(w - tau * w_least) + tiny * w_least
        return np.asarray(w - tau * w_least + up * error)

    exact = embed(a, 0.0)
    if not claims.is_elementwise:
        exact = exact - tau * embed(_least(a, axes), 0.0)
    d_low, d_high = translated(low, -1), translated(high, +1)
    positive = np.asarray(d_low > 0, bool)
    d_low = np.where(positive, d_low, exact)

    step = lr * sqrt(outer.value) / first.value
    q = step * m / exact
    own_q = 5 * u + first.error / (1 - min(first.error, 0.5))
    if outer is not one:  # its root, and one product more
        own_q = own_q + 2 * u + outer.error
    dq = step * (
        np.abs(m) * np.maximum(1 / d_low - 1 / exact, 1 / exact - 1 / d_high) + (dm + own_q * (np.abs(m) + dm)) / d_low
    ) + tiny * (1 + (1 + 1 / first.value) * (1 + np.abs(m)) / d_low + step + np.abs(m))

    shrunk, dshrunk = theta, np.zeros_like(theta)
    if decay and hp["decoupled_weight_decay"]:
        shrunk = (1 - lr * decay) * theta
        dshrunk = u * (2 * np.abs(1 - lr * decay) + 4 * lr * decay) * np.abs(theta) + tiny
    value = shrunk - q
    bound = dq * (1 + u) + dshrunk + u * (np.abs(value) + dq + dshrunk) + tiny
    if not rounded:
        return Reference(value, bound * s.slack, positive)
    before, bound = bound, bound + s.storage_u * (np.abs(value) + bound) + s.storage_tiny
    judged = positive & np.asarray(
        fits
        & (decay * np.maximum(np.abs(theta), 1) < s.largest / 8)
        & ((v if claims.is_elementwise else _most(v, axes)) / bc2 < s.largest / 8)
        & (np.maximum(step, 1 / first.value) * np.abs(m) * np.maximum(1, 1 / d_low) < s.largest / 8)
        & (np.maximum(step, 1) / d_low < s.largest / 8)
        & (np.abs(value) + bound < s.storage_largest),
        bool,
    )
    if case.seed is not None and s.storage_u:
        return _rounded_outwards(value, before * s.slack, judged, FORMATS[case.dtype], claims)
    return Reference(value, bound * s.slack, judged)


def _rounded_outwards(value: Wide, bound: Wide, judged: Any, to: Format, claims: Capabilities) -> Reference:
    """The numbers of a format between the lower neighbour of value - bound and the upper one of value + bound, as a
    middle and a distance from it: what a stochastic rounding may give.
    """
    if claims.flushes_subnormals:
        bound = bound + np.where(np.abs(value) < 2 * to.smallest_normal, to.smallest_normal, 0.0)
    low, high = neighbours(value - bound, to)[0], neighbours(value + bound, to)[1]
    return Reference((low + high) / 2, (high - low) / 2, judged)


def _place_of_epsilon(hp: Mapping[str, Any], claims: Capabilities) -> str:
    """Where ε is: "inside" the root, "outside", or "both"."""
    if claims.epsilon == "both":
        return "both"
    return "inside" if hp["eps_inside_sqrt"] else "outside"


def _embedding(a: Wide, eps: Wide, place: str, u: float, sqrt: Callable[[Wide], Wide]) -> tuple[Embedding, Wide]:
    """How w follows from a and from a change of ε, and the relative error that each w has of its own."""

    def inside(x: Wide, change: Any) -> Wide:
        return np.asarray(sqrt(np.maximum(np.maximum(x, 0) + eps + change, 0)))

    def outside(x: Wide, change: Any) -> Wide:
        return np.asarray(sqrt(np.maximum(x, 0)) + eps + change)

    def both(x: Wide, change: Any) -> Wide:
        return np.asarray(inside(x, change) + eps + change)

    share = a / (a + eps)
    own_inside = (share * 4 * u + u * (1 - share) + u) / 2 + u
    if place == "inside":
        return inside, own_inside
    if place == "outside":
        root = sqrt(a) / (sqrt(a) + eps)
        return outside, root * 3 * u + u * (1 - root) + u
    root = inside(a, 0.0) / both(a, 0.0)
    return both, root * own_inside + u * (1 - root) + u


def chain(d: int, reduction: str) -> int:
    """H: the largest number of additions that one entry of a sum over d entries takes part in."""
    if reduction == "any" or d <= 2:
        return max(d - 1, 0)
    return min(d - 1, 16 + 8 * int(np.ceil(np.log2(d))))


def _down_scaling(
    v: Wide, dv: Wide, axes: tuple[int, ...], power: float, s: _Setting, claims: Capabilities
) -> tuple[Wide, Wide]:
    """γ of each layer and a bound on its relative error, for any scale-free order of evaluation."""
    peak = _most(v, axes)
    one = np.ones_like(peak)
    if power == 0:
        return one, np.zeros_like(peak)
    d = int(np.prod([v.shape[axis] for axis in axes], dtype=int))
    zero = np.asarray(peak == 0, bool)
    r = np.where(zero, one, v) / np.where(zero, one, peak)
    s1, s2 = _sum(r, axes), _sum(r * r, axes)
    gamma = s1 * s1 / (d * s2)
    apart = np.abs(r / s1 - r * r / s2)
    # How much γ moves with v, from absolute errors: ρ = dv/v is undefined where v = 0.
    uncertain = np.where(zero, 0 * dv, dv) / np.where(zero, one, peak)
    moved = np.abs(1 / s1 - r / s2) * uncertain
    error = (3 * chain(d, claims.reduction) + 8) * s.u + 4 * s.u * _sum(apart, axes) + 2 * _sum(moved, axes)
    if power != 2:
        wide_gamma = np.asarray(gamma, np.float64)
        gamma = np.asarray(gamma ** s.wide.array(power / 2))
        # pow, and its exponent rounded to the format; or exp(n/2 log γ), whose exponent has three roundings.
        error = error * max(power / 2, 1) + s.u * (8 + 4 * (power / 2) * np.abs(np.log(wide_gamma)))
    error = np.minimum(error / np.maximum(1 - error, 0.5), 1)
    error = np.where(_sum(uncertain, axes) > s1 / 20, one, error)  # the first-order bound does not hold here
    if claims.flushes_subnormals:  # entries below the smallest normal number may have been read as zeros
        error = np.where(peak < d * s.tiny / s.u, one, error)
    return gamma, error


def _sum(x: Wide, axes: tuple[int, ...]) -> Wide:
    return np.asarray(np.sum(x, axis=axes, keepdims=True)) if axes else x


def _most(x: Wide, axes: tuple[int, ...]) -> Wide:
    return np.asarray(np.max(x, axis=axes, keepdims=True)) if axes else x


def _least(x: Wide, axes: tuple[int, ...]) -> Wide:
    return np.asarray(np.min(x, axis=axes, keepdims=True)) if axes else x
