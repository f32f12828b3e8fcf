"""Where a step must give NaN or infinity: the formulas in IEEE arithmetic, wide enough that nothing else overflows.

The oracle judges the coordinates where its value is finite. Here are the others: a coordinate that the formula makes
NaN must be NaN, and one that it makes infinite must not be finite (with lerp, an infinite m is Inf - Inf = NaN). The
parts of a complex number are taken together, because multiplying by 1j mixes them. Where τ = 0, a backend may leave out
the minimum, so that 0 · NaN is not required.
"""

from typing import NamedTuple

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase, real_view
from setadam_conformance.protocol import NumPyArray


class Formula(NamedTuple):
    """m, v and θ by the formulas in longdouble, in the layer's real view."""

    m: NumPyArray
    v: NumPyArray
    param: NumPyArray


def all_finite(layer: LayerCase) -> bool:
    """Whether all four arrays of the layer are finite."""
    return all(np.isfinite(real_view(x)).all() for x in (layer.param, layer.grad, layer.m, layer.v))


def formula(case: Case, layer: LayerCase, minimum_skips_nan: bool = False) -> Formula:
    """One step of a layer, in which NaN and infinity spread as IEEE arithmetic has it."""
    hp, t, axes = case.hp, case.t + 1, layer.real_axes
    wide = np.longdouble
    theta, g, m, v = (real_view(x).astype(wide) for x in (layer.param, layer.grad, layer.m, layer.v))
    with np.errstate(all="ignore"):
        g = -g if hp["maximize"] else g
        if hp["weight_decay"] and not hp["decoupled_weight_decay"]:
            g = g + wide(hp["weight_decay"]) * theta
        m = hp["beta1"] * m + (1 - hp["beta1"]) * g
        v = hp["beta2"] * v + (1 - hp["beta2"]) * g * g
        gamma = np.ones_like(v)
        if hp["cos_power"]:
            peak = np.max(v, axis=axes, keepdims=True)
            r = v / np.where(peak == 0, wide(1), peak)
            total, squares = (np.sum(x, axis=axes, keepdims=True) for x in (r, r * r))
            d = np.prod([v.shape[axis] for axis in axes], dtype=int)
            gamma = np.where(peak == 0, wide(1), total**2 / (d * squares)) ** wide(hp["cos_power"] / 2)
        v_hat = gamma * v / (1 - wide(hp["beta2"]) ** t)
        w = np.sqrt(v_hat + hp["eps"]) if hp["eps_inside_sqrt"] else np.sqrt(v_hat) + hp["eps"]
        if hp["tau"] and not minimum_skips_nan:
            w = w - wide(hp["tau"]) * np.min(w, axis=axes, keepdims=True)
        if hp["weight_decay"] and hp["decoupled_weight_decay"]:
            theta = (1 - wide(hp["lr"]) * wide(hp["weight_decay"])) * theta
        theta = theta - wide(hp["lr"]) / (1 - wide(hp["beta1"]) ** t) * m / w
    return Formula(m, v, theta)


def misplaced(expected: NumPyArray, got: NumPyArray, is_complex: bool) -> tuple[int, ...] | None:
    """The first coordinate that must not be finite and is, or that must be NaN and is not.

    expected, got: real views. is_complex: of a complex array, whose two parts are taken together.
    """
    nan, finite = np.isnan(expected), np.isfinite(expected)
    is_nan, is_finite = np.isnan(np.asarray(got, np.float64)), np.isfinite(np.asarray(got, np.float64))
    if is_complex:
        nan, is_nan = np.any(nan, axis=-1, keepdims=True), np.any(is_nan, axis=-1, keepdims=True)
        finite, is_finite = (np.all(x, axis=-1, keepdims=True) for x in (finite, is_finite))
    wrong = (nan & ~is_nan) | (~finite & is_finite)
    return tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.any() else None
