"""A step of one layer as numbers to be read: m, v, γ, v̂, w, min w, w̃ and θ, formula beside answer.

As in the oracle, everything below v is computed from the backend's own m and v. A backend returns only m, v and θ. For
w̃, the trace has the value that its θ and m imply: η/(1-β₁ᵗ)·m divided by what was subtracted from θ.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase, real_view
from setadam_conformance.cases.formats import FORMATS, compute_format
from setadam_conformance.judging import oracle
from setadam_conformance.judging.bench import Answer
from setadam_conformance.judging.judge import judge
from setadam_conformance.protocol import Capabilities, LayerState, NumPyArray
from setadam_conformance.running.results import Trace, TraceRow
from setadam_core import Hyperparameters
from setadam_core.layers import check_layer
from setadam_core.spec import bias_correction, down_scaling, down_translate, embed_epsilon

SHOWN = 3  # coordinates of a trace: more do not fit in 80 columns


@dataclass(frozen=True)
class Below:
    """What the formulas give for one layer from given m and v, in float64 and in the layer's real view."""

    gamma: NumPyArray
    v_hat: NumPyArray
    w: NumPyArray
    w_min: NumPyArray
    shifted: NumPyArray  # w̃
    stepsize: float  # η/(1-β₁ᵗ)
    bias2: float  # 1-β₂ᵗ
    kept: NumPyArray  # θ after decoupled weight decay


def below(case: Case, layer: LayerCase, m: NumPyArray, v: NumPyArray) -> Below:
    """Everything below m and v, by the functions of the specification."""
    hp, t = Hyperparameters(**case.hp), case.t + 1
    theta, grad, m, v = (x.astype(np.float64) for x in (real_view(layer.param), real_view(layer.grad), m, v))
    with np.errstate(all="ignore"):
        plain = check_layer(theta, grad, m, v, case.t, hp, layer.real_axes)
        gamma, bias2 = np.asarray(down_scaling(v, plain, hp.cos_power)), bias_correction(hp.beta2, t, plain)
        v_hat = gamma * v / bias2
        w = np.asarray(embed_epsilon(v_hat, hp.eps, plain, hp))
        w_min = np.asarray(plain.min(w)) if w.size else w
        kept = (1 - hp.lr * hp.weight_decay) * theta if hp.decoupled_weight_decay else theta
        stepsize = float(hp.lr / bias_correction(hp.beta1, t, plain))
        shifted = np.asarray(down_translate(w, w_min, hp.tau))
    return Below(gamma, v_hat, w, w_min, shifted, stepsize, float(bias2), kept)


def is_plain(claims: Capabilities) -> bool:
    """Whether the formulas between v and θ are the specification's. Some claims change them."""
    return claims.epsilon == "given" and not claims.corrected_moments


def implied(case: Case, found: Below, m: NumPyArray, param: NumPyArray) -> tuple[NumPyArray, NumPyArray]:
    """w̃ as the answer's θ and m imply it, and its relative uncertainty from the rounding of θ.

    Both are NaN where nothing was subtracted from θ.
    """
    with np.errstate(all="ignore"):
        theta = real_view(param).astype(np.float64)
        update = found.kept - theta
        rounding = 2 * FORMATS[case.dtype].u * np.maximum(np.abs(theta), np.abs(found.kept))
        value = found.stepsize * m.astype(np.float64) / update
        uncertain = rounding / np.abs(update) + 16 * compute_format(case.dtype).u
        usable = np.isfinite(value) & (value != 0) & np.isfinite(uncertain)
        return np.where(usable, value, np.nan), np.where(usable, uncertain, np.nan)


def trace_of(case: Case, answer: Answer, claims: Capabilities) -> Trace | None:
    """The trace of the layer where the answer parts, or of the first one with coordinates. None if there is none."""
    verdict = judge(case, answer.params, answer.states, claims)
    sizes = [layer.m.size for layer in case.layers]
    at = verdict.parted_layer if verdict.parted_layer is not None else int(np.argmax(np.array(sizes) > 0))
    if not sizes[at]:
        return None
    layer, param, state = case.layers[at], answer.params[at], answer.states[at]
    with np.errstate(all="ignore"):
        worst = verdict.scores[verdict.parted_at].coordinate if verdict.parted_at else None
        return _trace(case, layer, param, state, claims, verdict.parted_at, worst, at)


def _trace(
    case: Case,
    layer: LayerCase,
    param: NumPyArray,
    state: LayerState,
    claims: Capabilities,
    parted: str | None,
    worst: tuple[int, ...] | None,
    at: int,
) -> Trace:
    hp = case.hp
    m, v = oracle.moments(case, layer, claims)
    theta = oracle.parameter(case, layer, state.m, state.v, claims, moment_bounds=(m.bound, v.bound))
    found = below(case, layer, state.m, state.v)
    tilde, uncertain = implied(case, found, state.m, param)
    tilde = np.where(uncertain < 0.05, tilde, np.nan)
    scores = judge(replace(case, layers=(layer,)), [param], [state], claims).scores
    picked = _coordinates(state.v.shape, worst, found.w)

    def values(x: Any) -> list[float]:
        full = np.broadcast_to(np.asarray(x, np.float64), state.v.shape)
        return [float(full[i]) for i in picked]

    def alike(x: Any) -> list[float]:
        numbers = values(x)
        return numbers[:1] if len(set(numbers)) == 1 else numbers

    def judged(symbol: str, formula: str, stage: str, reference: oracle.Reference, got: NumPyArray) -> TraceRow:
        ratio = scores[stage].ratio if scores[stage].judged else None
        return TraceRow(symbol, formula, values(reference.value), values(got), ratio, parted == stage)

    gradient = "-g" if hp["maximize"] else "g"
    coupled = hp["weight_decay"] and not hp["decoupled_weight_decay"]
    decayed = hp["weight_decay"] and hp["decoupled_weight_decay"]
    gradient = f"({gradient}+λθ)" if coupled else gradient
    powers = {0.0: "1, as n = 0", 2.0: "cos²∠(v, 1)"}
    cosine = powers.get(float(hp["cos_power"]), f"cos∠(v, 1)^{hp['cos_power']:.4g}")
    embedded = "√(v̂ + ε)" if hp["eps_inside_sqrt"] else "√v̂ + ε"
    tilded = values(tilde)
    rows = [
        TraceRow("g", "", values(real_view(layer.grad))),
        judged("m", f"β₁m + (1-β₁){gradient}", "m", m, state.m),
        judged("v", f"β₂v + (1-β₂){gradient}²", "v", v, state.v),
        TraceRow("γ", cosine, alike(found.gamma)),
        TraceRow("v̂", "γv/(1-β₂ᵗ)", values(found.v_hat)),
        TraceRow("w", embedded, values(found.w)),
        TraceRow("min w", "", alike(found.w_min)),
        TraceRow("w̃", "w - τ min w", values(found.shifted), tilded if np.isfinite(tilded).any() else []),
    ]
    if not is_plain(claims):
        rows = rows[:3]
    rows.append(judged("θ", ("(1-ηλ)θ" if decayed else "θ") + " - η/(1-β₁ᵗ)m/w̃", "param", theta, real_view(param)))
    before = {"θ": layer.param, "m": layer.m, "v": layer.v}
    moved = [TraceRow(f"old {name}", "", values(real_view(x))) for name, x in before.items() if name == "θ" or case.t]
    return Trace(_title(case, layer, at), [list(i) for i in picked], [*moved, *rows])


def _title(case: Case, layer: LayerCase, at: int) -> str:
    """The step, the layer and the hyperparameters, those at their usual values left out."""
    hp = case.hp
    where = f"layer {at} of {len(case.layers)}, " if len(case.layers) > 1 else ""
    kind = "complex, " if layer.is_complex else ""
    axes = "" if layer.axes is None else f", layer_axes {layer.axes}"
    said = [
        f"{s} = {hp[n]:.6g}" for s, n in (("η", "lr"), ("β₁", "beta1"), ("β₂", "beta2"), ("ε", "eps"), ("τ", "tau"))
    ]
    if hp["weight_decay"]:
        said.append(f"λ = {hp['weight_decay']:.6g} ({'decoupled' if hp['decoupled_weight_decay'] else 'coupled'})")
    if hp["cos_power"] != 2:
        said.append(f"n = {hp['cos_power']:.6g}")
    if hp["maximize"]:
        said.append("maximize")
    if not hp["eps_inside_sqrt"]:
        said.append("ε outside")
    return f"step t = {case.t + 1}, {where}{kind}{case.dtype} {list(layer.param.shape)}{axes}: {', '.join(said)}"


def _coordinates(shape: tuple[int, ...], worst: tuple[int, ...] | None, w: NumPyArray) -> list[tuple[int, ...]]:
    """All coordinates of a small layer; of a large one the worst, the first, and those of the extremes of w."""
    size = int(np.prod(shape, dtype=int))
    if size <= SHOWN:
        chosen = list(range(size))
    else:
        first = [int(np.ravel_multi_index(worst, shape))] if worst is not None else []
        finite = np.where(np.isfinite(w), w, np.inf)
        telling = [*first, int(np.argmin(finite)), int(np.argmax(w)), *range(SHOWN)]
        chosen = sorted(list(dict.fromkeys(telling))[:SHOWN])
    return [tuple(int(k) for k in np.unravel_index(i, shape)) for i in chosen]
