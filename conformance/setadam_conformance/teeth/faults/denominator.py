"""Seeded faults in the denominator of the update: ε, the bias corrections, γ and the minimum."""

from math import sqrt
from typing import Any

import numpy as np

from setadam_conformance.teeth.faults.declare import REAL, kind, with_hyperparameters
from setadam_conformance.teeth.reference import Layer, Reference, Rows

R = Reference
_16 = np.float16


def _least(x: Rows) -> Rows:
    return np.min(x, axis=1, keepdims=True)


def _v_of_all(self: Reference, c: Layer) -> Rows:
    """The new v of all layers of the call, as one row."""
    return np.concatenate([self.moment2(o, self.gradient(o)).ravel() for o in c.call])[None]


def _w(self: Reference, c: Layer) -> Rows:
    """The denominator of another layer, before translation."""
    return self.denominator(c, self.scale(c, self.moment2(c, self.gradient(c))))


fault = kind("epsilon")
fault("eps-outside", "ε after the root, as Adam has it", embed=lambda s, c, x: np.sqrt(x) + c.hp.eps)
fault(
    "eps-inside-and-outside", "ε both under and after the root", embed=lambda s, c, x: np.sqrt(x + c.hp.eps) + c.hp.eps
)
fault(
    "eps-before-bias-correction",
    "ε is divided by 1-β₂ᵗ too",
    denominator=lambda s, c, x: np.sqrt((x + c.hp.eps) / s.bias2(c)),
)
fault("eps-squared", "ε² under the root", embed=lambda s, c, x: np.sqrt(x + c.hp.eps**2))
fault("eps-root", "√ε after the root", embed=lambda s, c, x: np.sqrt(x) + sqrt(c.hp.eps))
fault("eps-stored-in-v", "ε stays in the stored v", moment2=lambda s, c, g: R.moment2(s, c, g) + c.hp.eps)
fault(
    "eps-after-translation",
    "ε is added after the minimum is subtracted",
    translate=lambda s, c, w: R.translate(s, c, w) + c.hp.eps,
    embed=lambda s, c, x: np.sqrt(x),
)
fault("eps-missing", "no ε", embed=lambda s, c, x: np.sqrt(x))
fault("eps-tenfold", "10 ε", embed=lambda s, c, x: np.sqrt(x + 10 * c.hp.eps))
fault("eps-hard-coded", "ε is always 1e-8", embed=lambda s, c, x: np.sqrt(x + 1e-8))
fault(
    "eps-under-scaling",
    "γ scales ε too: √(γ(v̂+ε))",
    scale=lambda s, c, v: s.gamma(c, v) * (v + c.hp.eps * s.bias2(c)),
    embed=lambda s, c, x: np.sqrt(x),
)
fault("eps-maximum", "√max(v̂, ε)", embed=lambda s, c, x: np.sqrt(np.maximum(x, c.hp.eps)))
fault(
    "eps-half-precision",
    "ε passes through float16, where it underflows",
    embed=lambda s, c, x: np.sqrt(x + float(_16(c.hp.eps))),
)
fault("eps-inside-sqrt-ignored", "the switch eps_inside_sqrt does nothing", embed=lambda s, c, x: np.sqrt(x + c.hp.eps))

fault = kind("bias correction")
fault("bias-missing", "no bias correction", bias=lambda s, beta, t: 1.0)
fault("bias-1-missing", "m is not corrected", bias1=lambda s, c: 1.0)
fault("bias-2-missing", "v is not corrected", bias2=lambda s, c: 1.0)
fault("bias-t-plus-1", "t+1 in place of t", bias=lambda s, beta, t: R.bias(s, beta, t + 1))
fault(
    "bias-t-minus-1", "t-1 in place of t, which is 0 at first", bias=lambda s, beta, t: R.bias(s, beta, max(t - 1, 1))
)
fault(
    "bias-betas-swapped",
    "β₁ corrects v, β₂ corrects m",
    bias1=lambda s, c: s.bias(c.hp.beta2, c.t),
    bias2=lambda s, c: s.bias(c.hp.beta1, c.t),
)
fault("bias-2-root", "√(1-β₂ᵗ) in place of 1-β₂ᵗ", bias2=lambda s, c: sqrt(R.bias2(s, c)))
fault("bias-2-squared", "v is corrected twice", bias2=lambda s, c: R.bias2(s, c) ** 2)
fault(
    "bias-stored",
    "the corrected moments are stored",
    store=lambda s, c, theta, m, v: R.store(s, c, theta, m / s.bias1(c), v / s.bias2(c)),
)
fault("bias-t-ignored", "1-β at every step", bias=lambda s, beta, t: 1 - beta)
fault(
    "bias-float32-power",
    "1 - float32(β)ᵗ in float32",
    bias=lambda s, beta, t: float(1 - np.float32(beta) ** np.float32(t)) or 1.0,
)
fault("bias-float32-log", "log β of a float32 β", bias=lambda s, beta, t: R.bias(s, float(np.float32(beta)), t))
fault("bias-counter-16-bit", "the step count wraps at 2¹⁶", bias=lambda s, beta, t: R.bias(s, beta, t % 65536 or 65536))
fault(
    "bias-restarts",
    "the step count restarts every 1000 steps",
    bias=lambda s, beta, t: R.bias(s, beta, (t - 1) % 1000 + 1),
)
fault(
    "bias-saturates-early",
    "1 from step 100 on",
    bias=lambda s, beta, t: R.bias(s, beta, t) if t < 100 else 1.0,
)
fault("bias-first-step-skipped", "no correction at t = 1", bias=lambda s, beta, t: R.bias(s, beta, t) if t > 1 else 1.0)
fault(
    "bias-in-half-precision", "1-βᵗ rounded to float16", bias=lambda s, beta, t: float(_16(R.bias(s, beta, t))) or 1.0
)

fault = kind("down-scaling")
fault("gamma-missing", "no down-scaling", gamma=lambda s, c, v: np.ones_like(v[:, :1]))
fault("gamma-cosine", "cos, not cos²", gamma=lambda s, c, v: np.sqrt(R.gamma(s, c, v)))
fault("gamma-cosine-4", "cos⁴, not cos²", gamma=lambda s, c, v: R.gamma(s, c, v) ** 2)
fault("gamma-inverse", "v/γ", gamma=lambda s, c, v: 1 / R.gamma(s, c, v))
fault(
    "gamma-power-ignored",
    "cos_power does nothing",
    gamma=lambda s, c, v: R.gamma(s, with_hyperparameters(c, cos_power=2.0), v),
)
fault("gamma-of-squared-gradient", "γ of g², not of v", gamma=lambda s, c, v: R.gamma(s, c, c.g * c.g))
fault("gamma-of-root", "γ of √v", gamma=lambda s, c, v: R.gamma(s, c, np.sqrt(v)))
fault("gamma-of-old-v", "γ of v before the step", gamma=lambda s, c, v: R.gamma(s, c, c.v))
fault("gamma-of-m", "γ of |m|", gamma=lambda s, c, v: R.gamma(s, c, np.abs(s.moment1(c, s.gradient(c)))))
fault("gamma-of-v-plus-eps", "γ of v+ε", gamma=lambda s, c, v: R.gamma(s, c, v + c.hp.eps))
fault("gamma-d-plus-1", "divided by d+1", gamma=lambda s, c, v: R.gamma(s, c, v) * c.d / (c.d + 1))
fault("gamma-d-minus-1", "divided by d-1", gamma=lambda s, c, v: R.gamma(s, c, v) * c.d / max(c.d - 1, 1))
fault(
    "gamma-row-count",
    "divided by the first dimension, not by d",
    gamma=lambda s, c, v: R.gamma(s, c, v) * c.d / (c.given[0].shape or (1,))[0],
)
fault("gamma-padded", "d rounded up to a block of 8", gamma=lambda s, c, v: R.gamma(s, c, v) * c.d / (-(-c.d // 8) * 8))
fault("gamma-global", "one γ of all layers together", gamma=lambda s, c, v: R.gamma(s, _joined(s, c), _v_of_all(s, c)))
fault(
    "gamma-of-first-layer",
    "the first layer's γ for all",
    gamma=lambda s, c, v: R.gamma(s, c.call[0], s.moment2(c.call[0], s.gradient(c.call[0])))[:1],
)
fault("gamma-row-wise", "a γ for each row of a matrix", gamma=lambda s, c, v: _row_wise(s, c, v))
fault("gamma-twice", "v is scaled twice", scale=lambda s, c, v: s.gamma(c, v) ** 2 * v)
fault(
    "gamma-guard-1e-20", "1e-20 added to Σv², as in the circulating code", gamma=lambda s, c, v: _plain(s, c, v, 1e-20)
)
fault("gamma-guard-1e-30", "1e-30 added to Σv²", gamma=lambda s, c, v: _plain(s, c, v, 1e-30))
fault(
    "gamma-guard-1e-12-on-peak",
    "v divided by max v + 1e-12",
    gamma=lambda s, c, v: R.gamma(s, c, v) * (1 - 1e-12 / (np.max(v, axis=1, keepdims=True) + 1e-12)),
)
fault(
    "gamma-unscaled", "(Σv)²/(dΣv²) as printed: v² underflows and overflows", gamma=lambda s, c, v: _plain(s, c, v, 0.0)
)
fault(
    "gamma-sums-half-precision", "sums kept in float16", sum=lambda s, c, x: R.sum(s, c, x).astype(_16).astype(x.dtype)
)
fault(
    "gamma-half-precision", "γ rounded to float16", gamma=lambda s, c, v: R.gamma(s, c, v).astype(_16).astype(v.dtype)
)
fault("gamma-floor", "γ ≥ 0.1", gamma=lambda s, c, v: np.maximum(R.gamma(s, c, v), 0.1))
fault("gamma-ceiling", "γ ≤ 0.99", gamma=lambda s, c, v: np.minimum(R.gamma(s, c, v), 0.99))
fault(
    "gamma-of-nonzero",
    "zeros are left out of the mean",
    gamma=lambda s, c, v: R.gamma(s, c, v) * c.d / np.maximum(np.sum(v > 0, axis=1, keepdims=True), 1).astype(v.dtype),
)
fault(
    "gamma-zero-for-zero",
    "γ = 0/0 for a layer without gradients",
    gamma=lambda s, c, v: R.gamma(s, c, v) * (v / v)[:, :1] if not np.any(v) else R.gamma(s, c, v),
)
fault(
    "gamma-off-by-1e-5",
    "γ 1e-5 too large",
    REAL,
    "hidden by the rounding of a 16-bit θ",
    gamma=lambda s, c, v: R.gamma(s, c, v) * (1 + 1e-5),
)
fault(
    "gamma-sequential-sum",
    "a sum in one chain, claimed as pairwise",
    ("float32",),
    "16-bit parameters hide it, and float64 would need more coordinates than the kit uses",
    sum=lambda s, c, x: np.cumsum(x, axis=1, dtype=x.dtype)[:, -1:],
)

fault = kind("down-translating")
fault("tau-missing", "no down-translating", translate=lambda s, c, w: w)
fault("tau-mean", "the mean in place of the minimum", least=lambda s, c, w: np.mean(w, axis=1, keepdims=True))
fault("tau-max", "the maximum in place of the minimum", least=lambda s, c, w: np.max(w, axis=1, keepdims=True))
fault("tau-second-smallest", "the second smallest", least=lambda s, c, w: np.sort(w, axis=1)[:, 1:2] if c.d > 1 else w)
fault("tau-hard-coded", "τ is always ½", translate=lambda s, c, w: w - 0.5 * s.least(c, w))
fault("tau-complement", "1-τ for τ", translate=lambda s, c, w: w - (1 - c.hp.tau) * s.least(c, w))
fault("tau-squared", "τ²", translate=lambda s, c, w: w - c.hp.tau**2 * s.least(c, w))
fault("tau-added", "τ min w is added", translate=lambda s, c, w: w + c.hp.tau * s.least(c, w))
fault("tau-times-d", "d multiplies the minimum", translate=lambda s, c, w: w - c.hp.tau / c.d * s.least(c, w))
fault("tau-rescaled", "divided by 1-τ afterwards", translate=lambda s, c, w: R.translate(s, c, w) / (1 - c.hp.tau))
fault(
    "tau-minimum-without-eps",
    "the minimum of √v̂, without ε",
    translate=lambda s, c, w: w - c.hp.tau * np.sqrt(np.maximum(_least(w) ** 2 - c.hp.eps, 0)),
)
fault("tau-under-root", "√(w² - τ min w²)", translate=lambda s, c, w: np.sqrt(w * w - c.hp.tau * _least(w * w)))
fault(
    "tau-row-wise",
    "a minimum for each row of a matrix",
    least=lambda s, c, w: (
        _last_axis(c, w).min(axis=-1, keepdims=True).repeat(_last_axis(c, w).shape[-1], -1).reshape(w.shape)
    ),
)
fault(
    "tau-global",
    "one minimum of all layers",
    least=lambda s, c, w: np.min([np.min(_w(s, o)) for o in c.call if o.v.size]),
)
fault(
    "tau-of-first-layer",
    "the first layer's minimum for all",
    least=lambda s, c, w: R.least(s, c, _w(s, c.call[0]))[:1] if c.call[0].v.size else R.least(s, c, w),
)
fault(
    "tau-nonzero-only",
    "the minimum over coordinates that have had a gradient",
    least=lambda s, c, w: (
        np.min(np.where(w > np.min(w, axis=1, keepdims=True), w, np.inf), axis=1, keepdims=True)
        if np.ptp(w) > 0
        else R.least(s, c, w)
    ),
)
fault("tau-minimum-from-1", "the running minimum starts at 1", least=lambda s, c, w: np.minimum(R.least(s, c, w), 1))
fault("tau-minimum-from-0", "the running minimum starts at 0", least=lambda s, c, w: R.least(s, c, w) * 0)
fault(
    "tau-minimum-half-precision",
    "the minimum passes through float16",
    least=lambda s, c, w: R.least(s, c, w).astype(_16).astype(w.dtype),
)
fault(
    "tau-before-scaling",
    "the minimum of w without γ",
    least=lambda s, c, w: R.least(s, c, s.denominator(c, s.moment2(c, s.gradient(c)))),
)


def _joined(self: Reference, c: Layer) -> Layer:
    """The layer with the d of all layers together."""
    return Layer(**{**c.__dict__, "v": _v_of_all(self, c)})


def _last_axis(c: Layer, x: Rows) -> Any:
    """The rows of a matrix as layers; other arrays unchanged."""
    shape = c.given[0].shape
    whole = len(shape) > 1 and len(x) == 1 and c.given[0].dtype.kind != "c"
    return x.reshape(-1, shape[-1]) if whole else x


def _row_wise(self: Reference, c: Layer, v: Rows) -> Rows:
    each = _last_axis(c, v)
    apart = Layer(**{**c.__dict__, "v": each})
    return np.broadcast_to(R.gamma(self, apart, each), each.shape).reshape(v.shape)


def _plain(self: Reference, c: Layer, v: Rows, guard: float) -> Rows:
    cos2 = self.sum(c, v) ** 2 / (c.d * self.sum(c, v * v) + guard)
    cos2 = np.where(np.any(v, axis=1, keepdims=True), np.minimum(cos2, 1), 1).astype(v.dtype)
    return cos2 ** (c.hp.cos_power / 2)
