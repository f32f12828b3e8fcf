"""Which weights would explain a wrong m or v: the moment as a sum of what it may be made of.

m is β₁m + (1-β₁)g, a sum of two arrays of the example. If the answer is another sum of such arrays, but for a few
roundings in every coordinate, then its weights say what was written: 0.9 m + 0.001 g, and 0.001 = 1-β₂.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from setadam_conformance.cases.case import Case, real_view
from setadam_conformance.cases.formats import compute_format
from setadam_conformance.diagnosis.trying import Tried
from setadam_conformance.judging import oracle
from setadam_conformance.protocol import Capabilities, NumPyArray

_MORE = 3  # coordinates more than weights: fewer agree by accident
_LARGE = 4096  # coordinates


def weights(tried: Sequence[Tried], stage: str, claims: Capabilities) -> str:
    """One sentence about the weights, or the order, that explain a wrong m or v (`stage`); empty if none do."""
    steps = [t for t in tried if stage in t.wrong and t.answer is not None]
    with np.errstate(all="ignore"):
        if steps and all(_is_reordered(t, stage, claims) for t in steps[:12]):
            return f"the numbers of the new {stage} are the formula's in another order"
        found = [said for t in steps if (said := _of_step(t, stage))]
    return max(found[:12], key=lambda said: said.partition(",")[0].count(" + "), default="")


def _is_reordered(t: Tried, stage: str, claims: Capabilities) -> bool:
    """Whether the answer is right but for the order of its coordinates."""
    assert t.answer is not None
    for layer, state in zip(t.case.layers, t.answer.states, strict=True):
        if layer.m.size:
            reference = oracle.moments(t.case, layer, claims)[stage == "v"]
            bound = float(np.max(np.asarray(reference.bound, np.float64)))
            right = np.sort(np.asarray(reference.value, np.float64), axis=None)
            if not np.all(np.abs(np.sort(np.asarray(getattr(state, stage), np.float64), axis=None) - right) <= bound):
                return False
    return True


def _of_step(t: Tried, stage: str) -> str:
    assert t.answer is not None
    assert t.verdict is not None
    case = t.case
    for layer, state in zip(case.layers, t.answer.states, strict=True):
        got = np.asarray(getattr(state, stage), np.float64).ravel()
        if got.size > _LARGE or not np.isfinite(got).all():
            continue
        theta, g, m, v = (
            np.asarray(real_view(x), np.float64).ravel() for x in (layer.param, layer.grad, layer.m, layer.v)
        )
        new_m = np.asarray(state.m, np.float64).ravel()
        sign, decay = (
            (-1 if case.hp["maximize"] else 1),
            0.0 if case.hp["decoupled_weight_decay"] else case.hp["weight_decay"],
        )
        whole = sign * g + decay * theta
        tries: list[dict[str, NumPyArray]]
        if stage == "m":
            tries = [{"m": m, "g": g, "θ": theta * (decay != 0)}, {"m": m, "sign g": np.sign(g)}, {"m": m, "g²": g**2}]
        else:
            added = {"g²": whole**2, "(g without λθ)²": g**2, "|g|": abs(whole), "g": whole, "m²": new_m**2}
            added |= {"g m": whole * new_m, "(g-m)²": (whole - new_m) ** 2, "(old m)²": m**2}
            tries = [{"v": v, name: x} for name, x in added.items()]
        for columns in tries:
            fitted = _fit(got, columns, compute_format(case.dtype).u)
            if fitted is not None:
                return _sentence(case, stage, fitted, sign, decay)
    return ""


def _fit(got: NumPyArray, columns: Mapping[str, NumPyArray], u: float) -> dict[str, float] | None:
    """The weights of the columns whose sum is the array, but for a few roundings. Columns of zeros are left out."""
    kept = {name: x for name, x in columns.items() if np.isfinite(x).all() and x.any()}
    if not kept or got.size < len(kept) + _MORE:
        return None
    matrix = np.stack(list(kept.values()), axis=1)
    size = np.max(np.abs(matrix), axis=0)
    scaled = matrix / size
    row = np.maximum(np.max(np.abs(scaled), axis=1), 1e-300)  # so that each coordinate counts by its own rounding
    found, _, rank, _ = np.linalg.lstsq(scaled / row[:, None], got / row, rcond=None)
    terms = np.abs(scaled) @ np.abs(found)
    fits = np.all(np.abs(scaled @ found - got) <= 16 * u * terms + 1e-300)
    return dict(zip(kept, found / size, strict=True)) if fits and rank == len(kept) else None


def _sentence(case: Case, stage: str, fitted: Mapping[str, float], sign: int, decay: float) -> str:
    beta = case.hp["beta1" if stage == "m" else "beta2"]
    names = {f"{s}{name}": (-1 if s else 1) * x for s in ("", "-") for name, x in _names(case).items()}
    if stage == "m":
        right = {"m": beta, "g": sign * (1 - beta), "θ": decay * (1 - beta)}
    else:
        right = {"v": beta, "g²": 1 - beta}
    old = stage in fitted  # else it was zero
    said, instead = _sum(fitted), _sum({k: x for k, x in right.items() if x and (old or k != stage)})
    if said == instead:
        return ""
    known = [f"{x:.4g} = {name}" for x in fitted.values() if (name := _name(x, names)) and f"{x:.4g}" != name]
    return f"the new {stage} is {said}, not {instead}" + (f" ({', '.join(known)})" if known else "")


def _names(case: Case) -> dict[str, float]:
    beta1, beta2 = case.hp["beta1"], case.hp["beta2"]
    return {"β₁": beta1, "β₂": beta2, "1-β₁": 1 - beta1, "1-β₂": 1 - beta2, "λ": case.hp["weight_decay"]}


def _name(x: float, names: Mapping[str, float]) -> str:
    return next((name for name, value in names.items() if abs(x - value) <= 1e-4 * abs(value)), "")


def _sum(terms: Mapping[str, float]) -> str:
    return " + ".join(f"{x:.4g} {name}" for name, x in terms.items())
