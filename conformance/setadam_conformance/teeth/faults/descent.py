"""Seeded faults in the moments, the update and weight decay."""

from typing import Any

import numpy as np

from setadam_conformance.teeth.faults.declare import REAL, SIXTEEN_BIT, kind, with_hyperparameters
from setadam_conformance.teeth.reference import Layer, Reference, Rows

R = Reference
_16 = np.float16

fault = kind("moments")
fault(
    "betas-swapped",
    "β₁ decays v, β₂ decays m",
    hyperparameters=lambda s, hp: R.hyperparameters(s, {**hp, "beta1": hp["beta2"], "beta2": hp["beta1"]}),
)
fault("betas-hard-coded", "β is always (0.9, 0.999)", hyperparameters=lambda s, hp: _defaulted(s, hp, "beta1", "beta2"))
fault("m-without-1-minus-beta", "β₁ m + g", moment1=lambda s, c, g: c.hp.beta1 * c.m + g)
fault("v-without-1-minus-beta", "β₂ v + g²", moment2=lambda s, c, g: c.hp.beta2 * c.v + g * g)
fault("m-lerp-turned-round", "m + β₁ (g - m)", moment1=lambda s, c, g: c.m + c.hp.beta1 * (g - c.m))
fault("m-stale", "the update uses m before the step", update=lambda s, c, m, w: R.update(s, c, c.m, w))
fault("v-stale", "the denominator uses v before the step", scale=lambda s, c, v: s.gamma(c, v) * c.v)
fault(
    "m-nesterov",
    "Nesterov's look-ahead in the update",
    update=lambda s, c, m, w: R.update(s, c, c.hp.beta1 * m + (1 - c.hp.beta1) * s.gradient(c), w),
)
fault("v-amsgrad", "the larger of old and new v", scale=lambda s, c, v: R.scale(s, c, np.maximum(v, c.v)))
fault(
    "v-amsgrad-stored",
    "the larger of old and new v, stored",
    moment2=lambda s, c, g: np.maximum(R.moment2(s, c, g), c.v),
)
fault("v-adabelief", "(g - m)² in place of g²", moment2=lambda s, c, g: R.moment2(s, c, g - s.moment1(c, g)))
fault("v-absolute", "|g| in place of g²", moment2=lambda s, c, g: c.hp.beta2 * c.v + (1 - c.hp.beta2) * np.abs(g))
fault(
    "v-mean-square",
    "the layer's mean of g² in place of g²",
    moment2=lambda s, c, g: R.moment2(s, c, np.sqrt(np.mean(g * g, axis=1, keepdims=True)) + 0 * g),
)
fault("v-stored-scaled", "γv is stored", store=lambda s, c, theta, m, v: R.store(s, c, theta, m, s.scale(c, v)))
fault("v-floor", "v ≥ 1e-20", moment2=lambda s, c, g: np.maximum(R.moment2(s, c, g), 1e-20))
fault(
    "v-square-half-precision",
    "g² in float16, where it overflows",
    moment2=lambda s, c, g: c.hp.beta2 * c.v + (1 - c.hp.beta2) * np.square(g.astype(_16)).astype(g.dtype),
)
fault(
    "one-minus-beta-float32",
    "1 - float32(β)",
    moment2=lambda s, c, g: c.hp.beta2 * c.v + float(1 - np.float32(c.hp.beta2)) * (g * g),
)
fault("m-bfloat16", "m is kept in bfloat16", moment1=lambda s, c, g: _to_bfloat16(R.moment1(s, c, g)))
fault("v-bfloat16", "v is kept in bfloat16", moment2=lambda s, c, g: _to_bfloat16(R.moment2(s, c, g)))
fault("m-of-sign", "m of sign g", moment1=lambda s, c, g: R.moment1(s, c, np.sign(g)))
fault(
    "zero-gradient-keeps-moments",
    "moments do not decay where g = 0",
    moment1=lambda s, c, g: np.where(g == 0, c.m, R.moment1(s, c, g)),
)

fault = kind("update")
fault("sign", "θ + update", subtract=lambda s, c, theta, u: theta + u)
fault(
    "update-half-precision",
    "the update in float16",
    update=lambda s, c, m, w: R.update(s, c, m, w).astype(_16).astype(m.dtype),
)
fault(
    "update-fast-rsqrt", "a reciprocal root of 12 bits", update=lambda s, c, m, w: R.update(s, c, m, w) * (1 + 2.0**-13)
)
fault(
    "update-off-by-1e-5",
    "the update 1e-5 too large",
    REAL,
    "hidden by the rounding of a 16-bit θ",
    update=lambda s, c, m, w: R.update(s, c, m, w) * (1 + 1e-5),
)
fault(
    "theta-off-by-1e-6",
    "θ 1e-6 too large",
    REAL,
    "hidden by the rounding of a 16-bit θ",
    subtract=lambda s, c, theta, u: (theta - u) * (1 + 1e-6),
)
fault(
    "theta-shrinks",
    "a hidden weight decay of 1e-4",
    REAL,
    "hidden by the rounding of a 16-bit θ",
    subtract=lambda s, c, theta, u: theta * (1 - 1e-4) - u,
)
fault("lr-hard-coded", "η is always 1e-3", hyperparameters=lambda s, hp: _defaulted(s, hp, "lr"))
fault(
    "lr-half-precision", "η passes through float16", update=lambda s, c, m, w: float(_16(c.hp.lr)) / s.bias1(c) * m / w
)
fault("lr-off-by-a-thousandth", "1.001 η", update=lambda s, c, m, w: R.update(s, c, m, w) * 1.001)
fault(
    "lr-zero-stops-moments",
    "η = 0 does not change m and v",
    step_layer=lambda s, c: (c.given[0], c.given[2]._replace(t=c.t)) if c.hp.lr == 0 else R.step_layer(s, c),
)
fault("update-of-gradient", "g in place of m", update=lambda s, c, m, w: R.update(s, c, s.gradient(c), w))
fault("update-sign-only", "sign m", update=lambda s, c, m, w: R.update(s, c, np.sign(m), w))
fault("update-clipped", "updates clipped to ±1", update=lambda s, c, m, w: np.clip(R.update(s, c, m, w), -1, 1))
fault("gradient-clipped", "gradients clipped to ±1000", gradient=lambda s, c: np.clip(R.gradient(s, c), -1e3, 1e3))
fault(
    "gradient-norm-clipped",
    "gradients scaled to a norm of at most 1",
    gradient=lambda s, c: R.gradient(s, c) / np.maximum(np.sqrt(np.sum(R.gradient(s, c) ** 2)), 1),
)
fault(
    "update-skips-zero-gradients",
    "coordinates without a gradient stay, as in SparseAdam",
    update=lambda s, c, m, w: np.where(c.g == 0, 0, R.update(s, c, m, w)),
)
fault(
    "update-trust-ratio",
    "scaled by the parameter's norm, as LAMB does",
    update=lambda s, c, m, w: R.update(s, c, m, w) * np.sqrt(np.sum(c.theta**2, axis=1, keepdims=True)),
)
fault("update-without-w", "no denominator", update=lambda s, c, m, w: c.hp.lr / s.bias1(c) * m)
fault("arithmetic-half-precision", "all arithmetic in float16", load=lambda s, *args: _half(R.load(s, *args)))
fault(
    "arithmetic-bfloat16",
    "θ passes through bfloat16",
    REAL,
    "in bfloat16 this is right, and in float16 nearly",
    subtract=lambda s, c, theta, u: _to_bfloat16(theta - u),
)
fault(
    "rounded-twice",
    "the update is rounded to the parameter's format before it is subtracted",
    SIXTEEN_BIT,
    "in the other dtypes, that is the compute format",
    update=lambda s, c, m, w: R.update(s, c, m, w).astype(c.given[0].dtype).astype(m.dtype),
)
fault(
    "rounded-down",
    "θ is truncated to the parameter's format",
    SIXTEEN_BIT,
    "in the other dtypes, that is the compute format",
    subtract=lambda s, c, theta, u: _truncated(theta - u, c.given[0].dtype),
)

fault = kind("weight decay")
fault("decay-ignored", "λ does nothing", hyperparameters=lambda s, hp: _defaulted(s, hp, "weight_decay"))
fault(
    "decay-always-coupled",
    "decoupled decay is applied as coupled",
    hyperparameters=lambda s, hp: _defaulted(s, hp, "decoupled_weight_decay"),
)
fault(
    "decay-always-decoupled",
    "coupled decay is applied as decoupled",
    hyperparameters=lambda s, hp: R.hyperparameters(s, {**hp, "decoupled_weight_decay": True}),
)
fault(
    "decay-without-lr",
    "θ(1-λ), not θ(1-ηλ)",
    decay=lambda s, c, theta: (1 - c.hp.weight_decay) * theta if c.hp.decoupled_weight_decay else theta,
)
fault(
    "decay-bias-corrected",
    "θ shrinks by ηλ/(1-β₁ᵗ)",
    decay=lambda s, c, theta: (
        (1 - c.hp.lr * c.hp.weight_decay / s.bias1(c)) * theta if c.hp.decoupled_weight_decay else theta
    ),
)
fault(
    "decay-after-the-step",
    "θ shrinks after the update",
    decay=lambda s, c, theta: theta,
    subtract=lambda s, c, theta, u: R.decay(s, c, theta - u),
)
fault(
    "decay-grows",
    "θ(1+ηλ)",
    decay=lambda s, c, theta: (1 + c.hp.lr * c.hp.weight_decay) * theta if c.hp.decoupled_weight_decay else theta,
)
fault("decay-in-m-alone", "coupled, but not in v", moment2=lambda s, c, g: R.moment2(s, c, c.g))
fault(
    "decay-in-v-alone", "coupled, but not in m", moment1=lambda s, c, g: R.moment1(s, c, -c.g if c.hp.maximize else c.g)
)
fault(
    "decay-subtracted",
    "g - λθ",
    gradient=lambda s, c: R.gradient(s, with_hyperparameters(c, weight_decay=-c.hp.weight_decay)),
)
fault(
    "decay-spares-vectors",
    "arrays with one axis do not decay",
    hyperparameters=lambda s, hp: R.hyperparameters(s, hp),
    gradient=lambda s, c: R.gradient(s, c if c.given[0].ndim > 1 else with_hyperparameters(c, weight_decay=0.0)),
)
fault("maximize-ignored", "maximize does nothing", hyperparameters=lambda s, hp: _defaulted(s, hp, "maximize"))
fault(
    "maximize-after-decay",
    "-(g + λθ)",
    gradient=lambda s, c: (
        -R.gradient(s, with_hyperparameters(c, maximize=False)) if c.hp.maximize else R.gradient(s, c)
    ),
)
fault(
    "maximize-update",
    "the update is negated, not the gradient",
    gradient=lambda s, c: R.gradient(s, with_hyperparameters(c, maximize=False)),
    subtract=lambda s, c, theta, u: theta + u if c.hp.maximize else theta - u,
)


def _defaulted(self: Reference, hp: Any, *names: str) -> Any:
    """The checked hyperparameters, with the named ones at their defaults."""
    checked = R.hyperparameters(self, hp)
    kept = {name: value for name, value in checked.__dict__.items() if name not in names}
    return type(checked)(**kept)


def _to_bfloat16(x: Rows) -> Rows:
    import ml_dtypes

    return x.astype(ml_dtypes.bfloat16).astype(x.dtype)


def _half(c: Layer) -> Layer:
    c.theta, c.g, c.m, c.v = (x.astype(_16) for x in (c.theta, c.g, c.m, c.v))
    return c


def _truncated(x: Rows, dtype: Any) -> Rows:
    """The numbers rounded towards zero: rounded to nearest, then moved back by one place where that went up."""
    near = x.astype(dtype)
    bits = near.view(np.uint16) - (np.abs(near.astype(x.dtype)) > np.abs(x)).astype(np.uint16)
    return bits.view(dtype).astype(x.dtype)
