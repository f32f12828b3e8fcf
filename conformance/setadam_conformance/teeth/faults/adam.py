"""Seeded faults of Adam and AdamW themselves. They make the claims of `teeth.adams`, so that each claim keeps its
teeth: a widened bound must still reject what the claim does not speak of.
"""

from typing import Any

import numpy as np

from setadam_conformance.protocol import LayerState
from setadam_conformance.teeth.adams import Adam, AdamW, Corrected, CorrectedState, Narrow, Rounded, Uncorrected
from setadam_conformance.teeth.faults.declare import REAL, SIXTEEN_BIT, kind, with_hyperparameters
from setadam_conformance.teeth.reference import Layer, Reference, Rows

adam = kind("Adam", Adam)
adamw = kind("Adam", AdamW)
IN_FLOAT64 = ("float64",)


def _float32(x: float) -> float:
    return float(np.float32(x))


def _with_max(s: Reference, c: Layer, v: Rows) -> Rows:
    return np.maximum(c.v, v)


# ε.
adam(
    "adam-eps-uncorrected",
    "ε with the v that is not corrected: w = (√v + ε)/√(1-β₂ᵗ)",
    denominator=lambda s, c, x: (np.sqrt(x) + c.hp.eps) / np.sqrt(s.bias2(c)),
)
adam("adam-eps-inside", "ε under the root", denominator=lambda s, c, x: np.sqrt(x / s.bias2(c) + c.hp.eps))
adam("adam-eps-squared-inside", "ε² under the root", denominator=lambda s, c, x: np.sqrt(x / s.bias2(c) + c.hp.eps**2))
adam("adam-eps-0.1%", "ε · 1.001", denominator=lambda s, c, x: np.sqrt(x / s.bias2(c)) + 1.001 * c.hp.eps)
adam("adam-eps-fixed", "ε is always 1e-8", denominator=lambda s, c, x: np.sqrt(x / s.bias2(c)) + 1e-8)
adam(
    "adam-eps-maximum",
    "max(√v̂, ε) for √v̂ + ε",
    denominator=lambda s, c, x: np.maximum(np.sqrt(x / s.bias2(c)), c.hp.eps),
)
adam("adam-no-eps", "no ε", denominator=lambda s, c, x: np.sqrt(x / s.bias2(c)) + 1e-37)

# Bias corrections.
adam("adam-no-correction", "no bias correction", bias=lambda s, beta, t: 1.0)
adam("adam-no-correction-of-m", "no bias correction of m", bias1=lambda s, c: 1.0)
adam("adam-no-correction-of-v", "no bias correction of v", bias2=lambda s, c: 1.0)
adam(
    "adam-correction-squared",
    "√v/(1-β₂ᵗ) for √(v/(1-β₂ᵗ))",
    denominator=lambda s, c, x: np.sqrt(x) / s.bias2(c) + c.hp.eps,
)
adam(
    "adam-t-late",
    "corrections with t-1, and with 1 in the first step",
    bias=lambda s, beta, t: 1 - beta ** max(t - 1, 1),
)
adam("adam-t-early", "corrections with t+1", bias=lambda s, beta, t: 1 - beta ** (t + 1))
adam(
    "adam-betas-swapped-in-corrections",
    "1-β₁ᵗ for v and 1-β₂ᵗ for m",
    bias1=lambda s, c: s.bias(c.hp.beta2, c.t),
    bias2=lambda s, c: s.bias(c.hp.beta1, c.t),
)
adam(
    "adam-corrections-in-float32",
    "1 - β**t in float32, where the claim is in float64",
    REAL,
    "the rounding of a 16-bit θ hides it",
    bias=lambda s, beta, t: float(np.float32(1) - np.float32(beta) ** np.float32(t)),
)
adam(
    "adam-correction-stops", "no correction after 1,000 steps", bias=lambda s, beta, t: 1 - beta**t if t < 1000 else 1.0
)

# The moments.
adam(
    "adam-beta2-in-float32",
    "β₂ rounded to float32, for float64 parameters",
    IN_FLOAT64,
    "for the other dtypes, it is a rounding of the coefficient",
    moment2=lambda s, c, g: Reference.moment2(s, with_hyperparameters(c, beta2=_float32(c.hp.beta2)), g),
)
adam(
    "adam-one-beta",
    "β₁ for both moments",
    moment2=lambda s, c, g: Reference.moment2(s, with_hyperparameters(c, beta2=c.hp.beta1), g),
)
adam("adam-moment-without-rest", "β₁m + g", moment1=lambda s, c, g: c.hp.beta1 * c.m + g)
adam("adam-absolute-value", "v from |g|", moment2=lambda s, c, g: Reference.moment2(s, c, np.sqrt(np.abs(g))))
adam(
    "adam-centred",
    "v from g - m (AdaBelief)",
    moment2=lambda s, c, g: Reference.moment2(s, c, g - Reference.moment1(s, c, g)),
)
adam(
    "amsgrad-kept",
    "the largest v is kept in v (AMSGrad's maximum)",
    moment2=lambda s, c, g: _with_max(s, c, Reference.moment2(s, c, g)),
)
adam("amsgrad-in-denominator", "the larger of the last two v divides", scale=_with_max)
adam("adam-old-v", "v of the step before divides", scale=lambda s, c, v: c.v if c.t > 1 else v)
adam(
    "adam-old-m",
    "m of the step before is the update",
    update=lambda s, c, m, w: Reference.update(s, c, c.m if c.t > 1 else m, w),
)
adam(
    "adam-nesterov",
    "β₁m̂ + (1-β₁)ĝ (NAdam)",
    update=lambda s, c, m, w: Reference.update(s, c, c.hp.beta1 * m + (1 - c.hp.beta1) * s.gradient(c), w),
)

# Coupling, and values that are not finite.
adam(
    "adam-clips-by-norm",
    "the gradient's norm is clipped to 1e4",
    gradient=lambda s, c: _clipped(Reference.gradient(s, c)),
)
adam(
    "adam-nan-to-zero",
    "NaN in g becomes 0",
    gradient=lambda s, c: np.nan_to_num(Reference.gradient(s, c), posinf=np.inf, neginf=-np.inf),
)
adam(
    "adam-nan-spreads",
    "a NaN in g makes the whole layer NaN",
    gradient=lambda s, c: Reference.gradient(s, c) + 0 * np.sum(c.g * 0, axis=1, keepdims=True),
)
adam(
    "adam-trust-ratio",
    "the update is scaled to the norm of θ (LAMB), where that is beyond 100",
    update=lambda s, c, m, w: _trusted(c, Reference.update(s, c, m, w)),
)

# Weight decay.
adamw("adamw-decay-without-lr", "θ(1-λ) for θ(1-ηλ)", decay=lambda s, c, theta: (1 - c.hp.weight_decay) * theta)
adamw(
    "adamw-decay-squared-lr",
    "θ(1-η²λ) for θ(1-ηλ)",
    decay=lambda s, c, theta: (1 - c.hp.lr**2 * c.hp.weight_decay) * theta,
)
adamw(
    "adamw-decay-after-step",
    "the new θ decays, and not the old one",
    decay=lambda s, c, theta: theta,
    subtract=lambda s, c, theta, u: (1 - c.hp.lr * c.hp.weight_decay) * (theta - u),
)
adamw(
    "adamw-decay-corrected",
    "ηλ/(1-β₁ᵗ) for ηλ",
    decay=lambda s, c, theta: (1 - c.hp.lr / s.bias1(c) * c.hp.weight_decay) * theta,
)
adamw(
    "adamw-decay-coupled",
    "λθ is added to the gradient",
    decay=lambda s, c, theta: theta,
    gradient=lambda s, c: (-c.g if c.hp.maximize else c.g) + c.hp.weight_decay * c.theta,
)
adamw(
    "adamw-decay-ascends",
    "with maximize, θ grows by ηλθ",
    decay=lambda s, c, theta: (1 - (-1 if c.hp.maximize else 1) * c.hp.lr * c.hp.weight_decay) * theta,
)
adamw(
    "adamw-no-decay-of-vectors",
    "arrays of one axis do not decay",
    decay=lambda s, c, theta: theta if c.given[0].ndim == 1 else Reference.decay(s, c, theta),
)
adam(
    "adam-decay-decoupled",
    "θ(1-ηλ), and not λθ in the gradient",
    gradient=lambda s, c: -c.g if c.hp.maximize else c.g,
    decay=lambda s, c, theta: (1 - c.hp.lr * c.hp.weight_decay) * theta,
)
adam(
    "adam-decay-not-in-v",
    "λθ is in m, and not in v",
    moment2=lambda s, c, g: Reference.moment2(s, c, -c.g if c.hp.maximize else c.g),
)
adam(
    "adam-decay-negated",
    "with maximize, λθ is negated, too",
    gradient=lambda s, c: (-1 if c.hp.maximize else 1) * (c.g + c.hp.weight_decay * c.theta),
)

# Under each of the other claims.
kind("Adam", Uncorrected)(
    "keras-eps-corrected",
    "ε beside √v̂, where the claim is that it is not corrected",
    denominator=lambda s, c, x: np.sqrt(x) + c.hp.eps * np.sqrt(s.correction(c, c.hp.beta2)),
)
kind("Adam", Uncorrected)(
    "keras-eps-0.1%",
    "ε · 1.001, with an ε that is not corrected",
    denominator=lambda s, c, x: np.sqrt(x) + 1.001 * c.hp.eps,
)
kind("Adam", Corrected)(
    "optax-lr-in-bfloat16",
    "η rounded to bfloat16, with corrections that cancel",
    update=lambda s, c, m, w: Corrected.update(s, with_hyperparameters(c, lr=_bfloat16(c.hp.lr)), m, w),
)
kind("Adam", CorrectedState)(
    "corrected-state-twice", "the moments of the state are corrected again", bias=lambda s, beta, t: 1 - beta**t
)
kind("Adam", CorrectedState)(
    "corrected-state-as-plain", "the state's m̂ and v̂ decay by β, as m and v do", rest=lambda s, c, beta: 1 - beta
)
kind("Adam", Rounded)(
    "rounded-twice-as-much",
    "moments of 16-bit parameters are one step of their format too large",
    SIXTEEN_BIT,
    "the others have wide moments",
    store=lambda s, c, theta, m, v: _nudged(Reference.store(s, c, theta, m, v)),
)
kind("Adam", Narrow)(
    "narrow-lr-doubled",
    "η · 1.25, with every operation in 16 bits",
    SIXTEEN_BIT,
    "the claim is for these",
    update=lambda s, c, m, w: Reference.update(s, with_hyperparameters(c, lr=1.25 * c.hp.lr), m, w),
)


def _clipped(g: Rows) -> Rows:
    norm = np.sqrt(np.sum((g / 1e4) ** 2, axis=1, keepdims=True))
    return np.where(norm > 1, g / np.maximum(norm, 1), g)


def _trusted(c: Layer, update: Rows) -> Rows:
    norm = np.sqrt(np.sum(c.theta * c.theta, axis=1, keepdims=True))
    return np.where(norm > 100, 2, 1) * update


def _bfloat16(x: float) -> float:
    import ml_dtypes

    return float(ml_dtypes.bfloat16(x))


def _nudged(new: tuple[Any, LayerState]) -> tuple[Any, LayerState]:
    """Both moments, each moved to the next number of its format."""
    param, state = new

    def next_up(x: Any) -> Any:
        bits = x.view(np.uint16)
        return np.where((bits & 0x7FFF) != 0, bits + 1, bits).astype(np.uint16).view(x.dtype)

    return param, state._replace(m=next_up(state.m), v=next_up(state.v))
