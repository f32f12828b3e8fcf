"""Checks of the kit against known results. Each raises AssertionError if the kit gives another one."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase, fresh_layer
from setadam_conformance.cases.formats import FORMATS, compute_format
from setadam_conformance.judging import judge, oracle
from setadam_conformance.judging.exact import context, exact_step
from setadam_conformance.judging.oracle import Reference
from setadam_conformance.protocol import Capabilities, LayerState
from setadam_conformance.teeth import sampler
from setadam_conformance.teeth.reference import Reference as Implementation
from setadam_conformance.teeth.variants import VARIANTS

CLAIMS = Capabilities(dtypes=tuple(FORMATS))


def known_ratios() -> None:
    """One coordinate is off by 0.9 or 1.1 of its bound, up or down, at the start, in the middle or at the end."""
    for sign in (1, -1):
        for at in range(4):
            for share in (0.9, 1.1, 5.0):
                value = np.array([1.0, -2.0, 3.0, -4.0])
                bound = np.array([1e-6, 1e-5, 1e-7, 1e-6])
                got = value.copy()
                got[at] += sign * share * bound[at]
                score, _ = judge.compare(Reference(value, bound, np.ones(4, bool)), got, "float32")
                _hold(abs(score.ratio / share - 1) < 1e-6, (sign, at, share, score.ratio))
    score, _ = judge.compare(Reference(np.ones(2), np.full(2, 1e-6), np.ones(2, bool)), -np.ones(2), "float32")
    _hold(score.ratio > 1)


def no_number_is_no_answer() -> None:
    """NaN and infinities are infinitely far from a number."""
    for bad in (np.nan, np.inf, -np.inf):
        reference = Reference(np.array([1.0, 2.0]), np.full(2, 1e300), np.ones(2, bool))
        score, _ = judge.compare(reference, np.array([1.0, bad]), "float32")
        _hold(score.ratio == np.inf, bad)


def domain() -> None:
    """An ordinary layer is judged completely, and one whose g² overflows is not judged."""
    plain, huge = _one_layer("float32", 5), _one_layer("float32", 5)
    huge.grad[0] = 1e30
    for layer, expected in ((plain, 5), (huge, 0)):
        case = Case("float32", (layer,))
        verdict = judge.judge(case, *_answer(case), CLAIMS)
        _hold(verdict.scores["param"].judged == expected)
        _hold(verdict.conforms)


def second_oracle() -> None:
    """The oracle's values agree with the second oracle's within a hundredth of the bound.

    The moments of these cases are exact in every format, so that both oracles start θ from the same numbers.
    """
    for case, exact in _cases():
        layer = case.layers[0]
        m, v = oracle.moments(case, layer, CLAIMS)
        new_m, new_v = (np.array([float(x) for x in xs], layer.m.dtype) for xs in (exact.m, exact.v))
        theta = oracle.parameter(case, layer, new_m, new_v, CLAIMS)
        for reference, right in ((m, exact.m), (v, exact.v), (theta, exact.theta)):
            for value, bound, number in zip(reference.value, reference.bound, right, strict=True):
                _hold(abs(_number(value) - number) <= _number(bound) / 100, case)


def bounds_as_derived() -> None:
    """Where everything else is exact, the bound is a known number, see docs/bound.md.

    With β = ½ and a constant layer it is a sum of the constants. With zeros it is the underflows. With η = 0 it is the
    rounding of θ.
    """
    for dtype in ("float32", "float64"):
        fmt = compute_format(dtype)
        one = np.ones(2, fmt.numpy)
        layer = LayerCase(np.zeros(2, fmt.numpy), one * 2, one.copy(), one.copy())
        case = Case(dtype, (layer,)).with_hp(beta1=0.5, beta2=0.5)
        m, v = oracle.moments(case, layer, CLAIMS)
        # 3β|m| + (1-β)(4|g| + 3|m|) = 1.5 + 5.5; 3βv + (1-β)(5g² + 3v) = 1.5 + 11.5
        for reference, units in ((m, 7), (v, 13)):
            _hold(np.all(np.abs(np.asarray(reference.bound, np.float64) / (units * fmt.u) - 1) < 0.01))
        small = replace(layer, grad=layer.grad * 0, m=layer.m * 0, v=layer.v * 0)
        bounds = [np.asarray(r.bound / fmt.smallest_subnormal, np.float64) for r in oracle.moments(case, small, CLAIMS)]
        _hold(np.all(np.abs(bounds[0] / 5 - 1) < 0.01))
        _hold(np.all(np.abs(bounds[1] / 4 - 1) < 0.01))
        still = replace(layer, param=one * 3)
        theta = oracle.parameter(case.with_hp(lr=0.0), still, one, one, CLAIMS)
        _hold(np.all(np.abs(np.asarray(theta.bound, np.float64) / (3 * fmt.u) - 1) < 0.01))
        flushing = replace(CLAIMS, flushes_subnormals=True)
        bounds = [np.asarray(r.bound / fmt.smallest_normal, np.float64) for r in oracle.moments(case, small, flushing)]
        _hold(np.all(np.abs(bounds[0] / 5 - 1) < 0.01))


def tightness() -> None:
    """The worst error/bound of correct implementations is near 1 for θ, which is rounded last, and never above 1."""
    for dtype in ("float32", "float64"):
        for name in ("plain", "sum-chain", "flushing-inputs"):
            ratio, rejected = sampler.worst(VARIANTS[name].adapter(), dtype, 1500, seed=1)
            _hold(not rejected, (dtype, name, ratio))
            _hold(0.4 < ratio["m"] <= 1, (dtype, name, ratio))
            _hold(0.4 < ratio["v"] <= 1, (dtype, name, ratio))
            _hold(0.9 < ratio["param"] <= 1, (dtype, name, ratio))


def summation_class() -> None:
    """A sequential sum over 2²⁰ coordinates exceeds the pairwise bound of float32, but not the bound of "any". For a
    short layer, both classes allow it.
    """
    rng = np.random.default_rng(0)
    v = (1 + rng.random(2**20)).astype(np.float32)
    zero = np.zeros_like(v)
    case = Case("float32", (LayerCase(zero, np.ones_like(v), np.ones_like(v), v),), 9).with_hp(tau=0.0, eps=1e-30)
    chained = VARIANTS["sum-chain"].adapter()
    answer = _answer(case, chained)
    _hold(judge.judge(case, *answer, chained.capabilities).conforms)
    _hold(not judge.judge(case, *answer, CLAIMS).conforms)
    _hold([oracle.chain(d, "pairwise") for d in (1, 2, 65, 1024)] == [0, 1, 64, 96])
    _hold(oracle.chain(1024, "any") == 1023)


def every_layer_and_stage() -> None:
    """An error of a thousandth in one coordinate of any stage of any layer is found and located."""
    case = Case("float32", (_one_layer("float32", 5), _one_layer("float32", 3)), 0).with_hp(weight_decay=0.1)
    for index in (0, 1):
        for stage in judge.STAGES:
            params, states = _answer(case)
            wrong = params[index] if stage == "param" else getattr(states[index], stage)
            wrong[-1] *= np.float32(1.001)
            verdict = judge.judge(case, params, states, CLAIMS)
            _hold((verdict.parted_at, verdict.parted_layer) == (stage, index))
    _hold(judge.judge(case, *_answer(case), CLAIMS).conforms)


CHECKS: dict[str, Callable[[], None]] = {
    check.__name__.replace("_", "-"): check
    for check in (known_ratios, no_number_is_no_answer, domain, second_oracle, bounds_as_derived,
                  every_layer_and_stage, summation_class, tightness)
}  # fmt: skip


def failing(stop: bool = False) -> list[str]:
    """The checks that the kit fails in its present state; only the first with `stop`."""
    failed: list[str] = []
    for name, check in CHECKS.items():
        if stop and failed:
            break
        try:
            with np.errstate(all="ignore"):
                check()
        except Exception:  # a check that raises another error has also noticed something
            failed.append(name)
    return failed


def _one_layer(dtype: str, d: int) -> LayerCase:
    rng = np.random.default_rng(d)
    param, grad = (rng.normal(size=d).astype(FORMATS[dtype].numpy) for _ in range(2))
    return fresh_layer(param, grad)


def _answer(case: Case, adapter: Implementation | None = None) -> tuple[list[Any], list[LayerState]]:
    """The result of a correct implementation for this case."""
    states = [LayerState(x.m.copy(), x.v.copy(), case.t) for x in case.layers]
    params, grads = ([getattr(x, name).copy() for x in case.layers] for name in ("param", "grad"))
    return (adapter or Implementation()).step(params, grads, states, case.hp, [x.axes for x in case.layers])


@cache
def _cases() -> tuple[tuple[Case, Any], ...]:
    """Small cases and their exact steps, in each dtype, with every hyperparameter off its default."""
    rng = np.random.default_rng(7)
    settings: tuple[dict[str, Any], ...] = (
        {"lr": 0.7, "eps": 1e-3, "tau": 0.9, "weight_decay": 0.5},
        {"weight_decay": 0.3, "decoupled_weight_decay": True, "maximize": True, "cos_power": 4.0},
        {"eps": 0.01, "eps_inside_sqrt": False},
    )
    cases = []
    for dtype in FORMATS:
        storage, compute = FORMATS[dtype].numpy, compute_format(dtype).numpy
        for t, changes in enumerate(settings):
            param, grad, m = (rng.integers(-8, 9, 5) / 8 for _ in range(3))
            layer = LayerCase(param.astype(storage), grad.astype(storage), m.astype(compute), (m * m).astype(compute))
            case = Case(dtype, (layer,), t).with_hp(beta1=0.5, beta2=0.5, **changes)
            cases.append((case, exact_step(case, layer)))
    return tuple(cases)


def _number(x: Any) -> Any:
    """A number of the oracle's arithmetic as one of the second oracle's."""
    if hasattr(x, "_mpf_"):
        return context.mpf(x)
    mantissa, exponent = np.frexp(x)
    high = float(mantissa)
    return context.ldexp(context.mpf(high) + context.mpf(float(mantissa - type(x)(high))), int(exponent))


def _hold(condition: object, told: Any = "") -> None:
    """An assertion that `python -O` does not remove."""
    if not condition:
        raise AssertionError(told)
