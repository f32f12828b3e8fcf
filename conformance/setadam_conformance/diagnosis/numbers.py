"""Which one number would explain a wrong θ, if m and v are right and all but one quantity of the step is too.

The θ of a layer implies its w̃. If, for instance, what is missing from w̃ to w is the same number in all coordinates,
then T subtracts a wrong number, and we know which: perhaps τ max w. A number is given a name if the same name fits in
most of the steps.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from setadam_conformance.cases.case import Case, real_view
from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.diagnosis.tracing import Below, below, implied
from setadam_conformance.diagnosis.trying import Tried
from setadam_conformance.protocol import NumPyArray

_CERTAIN = 0.01  # coordinates where the rounding of θ hides more of w̃ than this are left out
_LEAST = 4  # coordinates: fewer agree by accident
_NAMED = 1e-3  # a number has a name if it differs by no more than this part of it
_ZERO = 1e-4  # it is 0 if it is less than this part of what it would be subtracted from
_STEPS = 6  # that are looked at


@dataclass(frozen=True)
class Number:
    """A number that explains a step. names: all that fit. text: a sentence with {} for the name."""

    kind: str
    names: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return self.text.format(f" = {self.names[0]}" if self.names and self.names[0] not in self.text.split() else "")


def explanation(tried: Sequence[Tried]) -> Number | None:
    """The number that explains the wrong θ of the first few steps that can tell, or None."""
    steps: list[list[Number]] = []
    for t in tried:
        if set(t.wrong) == {"param"} and (found := _of_step(t)) is not None:
            steps.append(found)
        if len(steps) == _STEPS:
            break
    for number in steps[0] if steps else []:
        for name in number.names:
            if _is_common([any(number.kind == x.kind and name in x.names for x in step) for step in steps]):
                return replace(number, names=(name,))
    for number in steps[0] if steps else []:
        if _is_common([any(number.kind == x.kind for x in step) for step in steps]):
            return replace(number, names=())
    return None


def _is_common(fits: list[bool]) -> bool:
    """In most steps: a class of one of them, n = 4 for instance, may give another number."""
    return 3 * sum(fits) >= 2 * len(fits)


def _of_step(t: Tried) -> list[Number] | None:
    """What explains a step, the most pointed first. None if the step cannot tell."""
    assert t.answer is not None
    assert t.verdict is not None
    case, at = t.case, t.verdict.parted_layer or 0
    layer, param, state = case.layers[at], t.answer.params[at], t.answer.states[at]
    if len(layer.real_axes) != layer.v.ndim or layer.v.size < _LEAST or not case.hp["lr"]:
        return None
    with np.errstate(all="ignore"):
        found = below(case, layer, state.m, state.v)
        tilde, uncertain = implied(case, found, state.m, param)
        if np.mean(uncertain < _CERTAIN) < 0.5 or not np.all(np.isfinite(found.shifted)):
            return None
        theta, v = real_view(layer.param).astype(np.float64), state.v.astype(np.float64)
        got, m = real_view(param).astype(np.float64), state.m.astype(np.float64)
        return [
            *_of_v_hat(case, found, v, tilde, uncertain),
            *_of_the_update(case, found, tilde, uncertain),
            *_of_translation(case, found, tilde, uncertain),
            *_of_decay(case, found, theta, m, got),
        ]


def _of_the_update(case: Case, found: Below, tilde: NumPyArray, uncertain: NumPyArray) -> Iterator[Number]:
    ratio = found.shifted / tilde
    factor = _common(ratio, uncertain * np.abs(ratio), 0)
    if factor is not None:
        yield Number(
            "update", _named(factor, _factors(case, found)), f"the whole update is {factor:.5g}{{}} times the formula's"
        )


def _of_translation(case: Case, found: Below, tilde: NumPyArray, uncertain: NumPyArray) -> Iterator[Number]:
    w, tau = found.w, case.hp["tau"]
    taken = _common(w - tilde, uncertain * np.abs(tilde), float(np.median(w)))
    if taken is None or w.max() - w.min() < 1e-2 * w.max():  # equal w do not tell T from the rest
        return
    least = float(w.min())
    root = np.sqrt(found.v_hat)
    names = {
        "0": 0.0,
        "τ max w": tau * w.max(),
        "τ mean w": tau * w.mean(),
        "τ times the first w": tau * w.flat[0],
        "τ times the last w": tau * w.flat[-1],
        "τ min √v̂": tau * root.min(),
        "τ²min w": tau**2 * least,
        "-τ min w": -tau * least,
        "min w": least,
        "max w": w.max(),
        "τ": tau,
        "1-τ": 1 - tau,
        "(1-τ) min w": (1 - tau) * least,
        "d τ min w": tau * w.size * least,
    }
    size = float(np.median(w))
    yield Number(
        "translation",
        _named(taken, {k: float(x) for k, x in names.items()}, size),
        f"{_shown(taken, size)}{{}} is subtracted from every w, not τ min w = {tau * least:.5g}",
    )


def _of_v_hat(case: Case, found: Below, v: NumPyArray, tilde: NumPyArray, uncertain: NumPyArray) -> Iterator[Number]:
    """A wrong γ/(1-β₂ᵗ) or a wrong ε, if T is right."""
    tau, eps, inside = case.hp["tau"], case.hp["eps"], case.hp["eps_inside_sqrt"]
    if not np.all(uncertain < _CERTAIN) or np.any(tilde < 0):  # the minimum is needed
        return
    error = uncertain * tilde
    w = tilde + tau / (1 - tau) * np.min(tilde)
    w_error = error + tau / (1 - tau) * error.flat[np.argmin(tilde)]
    squared = w**2 - eps if inside else (w - eps) ** 2
    squared_error = 2 * np.abs(w if inside else w - eps) * w_error
    factor = _common(np.where(v > 0, squared / v, np.nan), squared_error / v, 0)
    gamma = float(found.gamma.ravel()[0])
    if factor is not None and factor > 0:
        right = gamma / found.bias2
        fitting = _named(factor / right, _factors(case, found))
        yield Number(
            "v̂",
            fitting,
            f"v̂ is {factor:.5g} v in every coordinate, not γ/(1-β₂ᵗ) v = {right:.5g} v: {factor / right:.5g}{{}} times",
        )
    rest = w**2 - found.v_hat if inside else w - np.sqrt(found.v_hat)
    other = _common(rest, 2 * w * w_error if inside else w_error, eps)
    if other is not None:
        names = {
            "0": 0.0,
            "ε²": eps**2,
            "√ε": eps**0.5,
            "2ε": 2 * eps,
            "10 ε": 10 * eps,
            "ε/(1-β₂ᵗ)": eps / found.bias2,
            "γε": gamma * eps,
            "1e-8": 1e-8,
        }
        named = _named(other, names, eps)
        yield Number("ε", named, f"{_shown(other, eps)}{{}} stands in the place of ε = {eps:.5g} in every coordinate")


def _of_decay(case: Case, found: Below, theta: NumPyArray, m: NumPyArray, got: NumPyArray) -> Iterator[Number]:
    """θ' differs from the formula by the same multiple of θ."""
    right = found.kept - found.stepsize * m / found.shifted
    moved = np.where(theta == 0, np.nan, (got - right) / theta)
    error = 8 * FORMATS[case.dtype].u * np.maximum(np.abs(got), np.abs(theta)) / np.abs(theta)
    common = _common(moved, error, 0)
    if common is None:
        return
    lr, decay = case.hp["lr"], case.hp["weight_decay"]
    shrinks = bool(case.hp["decoupled_weight_decay"])
    kept = (1 - lr * decay if shrinks else 1.0) + common
    names = {"1": 1.0, "1-ηλ": 1 - lr * decay, "1+ηλ": 1 + lr * decay, "1-λ": 1 - decay}
    names["1-ηλ/(1-β₁ᵗ)"] = 1 - found.stepsize * decay
    named = tuple(k for k, x in names.items() if abs(kept - x) <= 2 * _NAMED * abs(common))
    instead = "(1-ηλ) θ" if shrinks and decay else "θ"
    yield Number(
        "decay", named, f"the update is taken from {kept:.8g}{{}} times θ in every coordinate, not from {instead}"
    )


def _factors(case: Case, found: Below) -> Mapping[str, float]:
    """Numbers of a step by which a quantity may be wrong."""
    gamma, d, hp = float(found.gamma.ravel()[0]), float(found.w.size), case.hp
    plain = {
        "d": d,
        "(d-1)/d": (d - 1) / d,
        "d/(d+1)": d / (d + 1),
        "√d": d**0.5,
        "(1-β₂ᵗ)": found.bias2,
        "√(1-β₂ᵗ)": found.bias2**0.5,
        "(1-β₁ᵗ)": hp["lr"] / found.stepsize,
        "γ": gamma,
        "√γ": gamma**0.5,
        "(1-τ)": 1 - hp["tau"],
        "(1-β₁)": 1 - hp["beta1"],
        "η": hp["lr"],
    }
    return {"-1": -1.0, **plain, **{f"1/{k}": 1 / x for k, x in plain.items() if x}}


def _common(x: NumPyArray, error: NumPyArray, scale: float) -> float | None:
    """The number that the coordinates share within their errors, or None.

    At least `_LEAST` of them, and half, must be known far better than the number itself, or than `scale`.
    """
    kept = np.isfinite(x) & np.isfinite(error)
    if np.sum(kept) < max(_LEAST, 0.5 * x.size):
        return None
    x, error = x[kept], np.maximum(error[kept], 1e-300)
    best = float(np.average(x, weights=(np.min(error) / error) ** 2))
    size = max(abs(best), scale)
    known = error < 0.02 * size
    if np.sum(known) < _LEAST or not np.all(np.abs(x - best) <= 2 * error + 1e-5 * size):
        return None
    return best


def _named(x: float, names: Mapping[str, float], scale: float = 0) -> tuple[str, ...]:
    """The names of the number. scale: what counts as 0 is measured by it."""
    return tuple(k for k, value in names.items() if abs(x - value) <= (_NAMED * abs(value) if value else _ZERO * scale))


def _shown(x: float, scale: float) -> str:
    return "0" if abs(x) <= _ZERO * scale else f"{x:.5g}"
