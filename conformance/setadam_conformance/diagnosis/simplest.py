"""An example that can be read: the failing step with fewer coordinates, plainer numbers and usual hyperparameters."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from setadam_conformance.cases.case import DEFAULTS, Case, LayerCase, map_layer
from setadam_conformance.diagnosis.trying import Budget, BudgetSpentError, Tried, attempt
from setadam_conformance.judging.bench import Bench
from setadam_conformance.protocol import Capabilities, NumPyArray

_SMALL = 4096  # coordinates: larger layers are shown as they are
TELLING = 1000  # × the bound: an error that can be seen in a few decimal digits
_SIZES = (3, 4, 6, 9, 17)
_NUMBERS = (1.0, 0.75, 0.375, 0.3125, 0.1875, 0.15625, 0.125)  # no two of a ratio that τ = ½ would make zero


def simplest(bench: Bench, tried: Tried, stage: str, budget: Budget) -> Tried:
    """The step, simplified as long as its stage is the first that is wrong. Raises ProtocolError."""
    best, changed = tried, True
    try:
        while changed:
            changed = False
            for case in _simpler(best, bench.claims):
                found = attempt(bench, case, budget)
                if next(iter(found.wrong), None) == stage and _tells(found, best):
                    best, changed = found, True
                    break
    except BudgetSpentError:
        pass
    return best


def _tells(found: Tried, best: Tried) -> bool:
    """Whether the error can still be seen, or is not much smaller than it was."""
    ratio = next(iter(found.wrong.values()))
    before = next(iter(best.wrong.values()))
    if math.isinf(ratio):  # NaN says less than a wrong number
        return math.isinf(before)
    return not ratio < TELLING or not ratio < before / 4


def _simpler(tried: Tried, claims: Capabilities) -> Iterator[Case]:
    """Cases that are simpler by one change, the largest change first."""
    case, at = tried.case, (tried.verdict.parted_layer if tried.verdict else None) or 0
    layer = case.layers[at]
    if len(case.layers) > 1:
        yield replace(case, layers=(layer,))
    if layer.param.ndim != 1 and layer.axes is None:
        yield _with(case, at, _flat(layer))
    if layer.param.ndim == 1 and layer.param.size <= _SMALL:
        for n in _SIZES:
            if n < layer.param.size:
                for kept in (slice(0, n), slice(layer.param.size - n, None)):
                    yield _with(case, at, map_layer(lambda x, kept=kept: np.ascontiguousarray(x[kept]), layer))  # type: ignore[misc]
    for name, value in DEFAULTS.items():
        if case.hp[name] != value and name not in claims.fixed:
            yield case.with_hp(**{name: value})
    for t in (0, 1, 9):
        if t < case.t:
            fresh = t == 0 and not (layer.m.any() or layer.v.any())
            if t or fresh:
                yield replace(case, t=t)
    if layer.param.size > _SMALL:
        return
    for name in ("param", "grad", "m", "v"):
        x = getattr(layer, name)
        for plainer in (_plain(x, name), _short(x)):
            if plainer.tobytes() != x.tobytes():  # 0 is plainer than -0
                changed: Any = {name: plainer}
                yield _with(case, at, replace(layer, **changed))


def _with(case: Case, at: int, layer: LayerCase) -> Case:
    return replace(case, layers=(*case.layers[:at], layer, *case.layers[at + 1 :]))


def _flat(layer: LayerCase) -> LayerCase:
    shape = (layer.param.size, 2) if layer.is_complex else (layer.param.size,)
    m, v = layer.m.reshape(shape), layer.v.reshape(shape)
    return replace(layer, param=layer.param.reshape(-1), grad=layer.grad.reshape(-1), m=m, v=v)


def _plain(x: NumPyArray, name: str) -> NumPyArray:
    """Zeros for θ; for the rest plain numbers of the same signs and the same order of size."""
    if name == "param":
        return np.zeros_like(x)
    wide = x.astype(np.float64) if x.dtype.kind != "c" else np.full(1, np.nan)
    if not np.isfinite(wide).all():
        return x
    ranks = np.unique(-np.abs(wide), return_inverse=True)[1].reshape(x.shape)
    sizes = np.array(_NUMBERS)[np.minimum(ranks, len(_NUMBERS) - 1)]
    return np.asarray((np.sign(wide) * sizes).astype(x.dtype))


def _short(x: NumPyArray) -> NumPyArray:
    """The numbers rounded to two binary digits."""
    if x.dtype.kind == "c":
        return x
    wide = x.astype(np.float64)
    mantissa, exponent = np.frexp(wide)
    with np.errstate(all="ignore"):
        return np.asarray(
            np.where(np.isfinite(wide), np.ldexp(np.round(mantissa * 4) / 4, exponent), wide).astype(x.dtype)
        )
