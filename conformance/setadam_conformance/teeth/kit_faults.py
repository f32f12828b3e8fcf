"""Faults of the kit itself: a bound ten times too wide, an oracle rounded too early, a comparator that looks
away. Each replaces a function of `oracle` or `judge` for a while; the checks below must notice.

A check is a question with a known answer. All of them must hold on the kit as it is, and at least one must
fail under each fault.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from setadam_conformance import judge, oracle
from setadam_conformance.case import Case, LayerCase, fresh_layer
from setadam_conformance.exact import context, exact_step
from setadam_conformance.formats import FORMATS, compute_format
from setadam_conformance.oracle import Reference
from setadam_conformance.protocol import Capabilities, LayerState
from setadam_conformance.teeth import sampler
from setadam_conformance.teeth.reference import Reference as Implementation
from setadam_conformance.teeth.variants import VARIANTS

CLAIMS = Capabilities(dtypes=tuple(FORMATS))
_right: dict[str, Callable[..., Any]] = {  # as they are before any fault is applied
    "moments": oracle.moments,
    "parameter": oracle.parameter,
    "chain": oracle.chain,
    "compare": judge.compare,
    "judge": judge.judge,
}


@dataclass(frozen=True)
class KitFault:
    """Something wrong with the kit: what stands in for which function of which module."""

    name: str
    what: str
    replaced: tuple[tuple[Any, str, Callable[..., Any]], ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        before = [(module, name, getattr(module, name)) for module, name, _ in self.replaced]
        for module, name, stand_in in self.replaced:
            setattr(module, name, stand_in)
        oracle.memory.forget()
        try:
            yield
        finally:
            oracle.memory.forget()
            for module, name, original in before:
                setattr(module, name, original)


KIT_FAULTS: dict[str, KitFault] = {}


def _of_references(name: str, what: str, change: Callable[[Reference], Reference]) -> None:
    """A fault in all that the oracle returns."""

    def moments(*args: Any, **kwargs: Any) -> Any:
        m, v = _right["moments"](*args, **kwargs)
        return change(m), change(v)

    def parameter(*args: Any, **kwargs: Any) -> Any:
        return change(_right["parameter"](*args, **kwargs))

    KIT_FAULTS[name] = KitFault(name, what, ((oracle, "moments", moments), (oracle, "parameter", parameter)))


def _of_one(name: str, what: str, module: Any, function: str, stand_in: Callable[..., Any]) -> None:
    KIT_FAULTS[name] = KitFault(name, what, ((module, function, stand_in),))


def _rounded(x: Any, dtype: Any) -> Any:
    return np.asarray(x).astype(dtype).astype(np.asarray(x).dtype)


_of_references("bound-tenfold", "every bound ten times too wide", lambda r: r._replace(bound=r.bound * 10))
_of_references("bound-tenth", "every bound ten times too narrow", lambda r: r._replace(bound=r.bound / 10))
_of_references("bound-doubled", "every bound twice too wide", lambda r: r._replace(bound=r.bound * 2))
_of_references("bound-halved", "every bound half as wide", lambda r: r._replace(bound=r.bound / 2))
_of_references("bound-infinite", "no bound", lambda r: r._replace(bound=r.bound * 0 + np.inf))
_of_references(
    "bound-of-layer",
    "the widest bound of a layer for all its coordinates",
    lambda r: r._replace(bound=r.bound * 0 + np.max(r.bound, initial=0)),
)
_of_references(
    "oracle-in-float32",
    "reference values rounded to float32",
    lambda r: r._replace(value=_rounded(r.value, np.float32)),
)
_of_references(
    "oracle-in-float64",
    "reference values rounded to float64",
    lambda r: r._replace(value=_rounded(r.value, np.float64)),
)
_of_references("nothing-judged", "no coordinate is judged", lambda r: r._replace(judged=np.zeros_like(r.judged)))
_of_references("all-judged", "the domain is not looked at", lambda r: r._replace(judged=np.ones_like(r.judged)))
_of_one("class-ignored", "every sum is granted one chain", oracle, "chain", lambda d, reduction: max(d - 1, 0))
_of_one(
    "class-too-strict",
    "no sum is granted more than eight roundings",
    oracle,
    "chain",
    lambda d, reduction: min(d - 1, 8),
)


def _without(name: str, *fields: str, default: Any) -> Callable[..., Any]:
    """An oracle function that takes hyperparameters to be at some value."""

    def stand_in(case: Case, *args: Any, **kwargs: Any) -> Any:
        return _right[name](case.with_hp(**dict.fromkeys(fields, default)), *args, **kwargs)

    return stand_in


_of_one("oracle-without-tau", "the oracle leaves T out", oracle, "parameter", _without("parameter", "tau", default=0.0))
_of_one(
    "oracle-without-gamma",
    "the oracle leaves S out",
    oracle,
    "parameter",
    _without("parameter", "cos_power", default=0.0),
)
_of_one(
    "oracle-eps-outside",
    "the oracle adds ε after the root",
    oracle,
    "parameter",
    _without("parameter", "eps_inside_sqrt", default=False),
)
_of_one(
    "oracle-without-decay",
    "the oracle leaves weight decay out",
    oracle,
    "moments",
    _without("moments", "weight_decay", default=0.0),
)
_of_one(
    "oracle-t-late",
    "the oracle takes t for t+1",
    oracle,
    "parameter",
    lambda case, *args, **kwargs: _right["parameter"](replace(case, t=case.t + 1), *args, **kwargs),
)
_of_one(
    "flush-granted-to-all",
    "every backend may flush subnormals",
    oracle,
    "moments",
    lambda case, layer, claims, *a: _right["moments"](case, layer, replace(claims, flushes_subnormals=True), *a),
)
_of_one(
    "flush-granted-to-none",
    "no backend may flush subnormals",
    oracle,
    "moments",
    lambda case, layer, claims, *a: _right["moments"](case, layer, replace(claims, flushes_subnormals=False), *a),
)


def _each_alone(choose: Callable[[list[judge.Score]], judge.Score]) -> Callable[..., Any]:
    """A comparator that picks another coordinate than the worst."""

    def compare(reference: Reference, got: Any, fmt: str, compute: str) -> Any:
        score, median = _right["compare"](reference, got, fmt, compute)
        value, bound, judged = (np.broadcast_to(x, got.shape).ravel() for x in reference)
        alone = [
            _right["compare"](Reference(value[i : i + 1], bound[i : i + 1], judged[i : i + 1]), got.ravel()[i : i + 1],
                              fmt, compute)[0]
            for i in range(got.size) if judged[i]
        ]  # fmt: skip
        return (replace(score, ratio=choose(alone).ratio) if alone else score), median

    return compare


def _changed(change: Callable[[Reference, Any], Any]) -> Callable[..., Any]:
    """A comparator that sees other numbers than those that came back."""
    return lambda reference, got, *formats: _right["compare"](reference, change(reference, got), *formats)


def _expected(reference: Reference) -> Any:
    return np.asarray(reference.value, np.float64)


_of_one(
    "any-for-all",
    "one coordinate within its bound is enough",
    judge,
    "compare",
    _each_alone(lambda s: min(s, key=lambda x: x.ratio)),
)
_of_one(
    "median-for-max",
    "half the coordinates within their bounds are enough",
    judge,
    "compare",
    _each_alone(lambda s: replace(s[0], ratio=statistics.median(x.ratio for x in s))),
)
_of_one("first-for-max", "only the first coordinate is looked at", judge, "compare", _each_alone(lambda s: s[0]))
_of_one(
    "last-left-out",
    "the last coordinate is not looked at",
    judge,
    "compare",
    _each_alone(lambda s: max(s[:-1] or s, key=lambda x: x.ratio)),
)
_of_one(
    "nan-conforms",
    "NaN compares as equal",
    judge,
    "compare",
    _changed(lambda r, got: np.where(np.isnan(got), _expected(r), got)),
)
_of_one(
    "infinity-conforms",
    "±Inf compares as equal",
    judge,
    "compare",
    _changed(lambda r, got: np.where(np.isinf(got), _expected(r), got)),
)
_of_one(
    "sign-of-error-lost",
    "too small a value conforms: |error| without its bars",
    judge,
    "compare",
    _changed(lambda r, got: np.where(got < _expected(r), _expected(r), got)),
)
_of_one(
    "sign-of-value-lost",
    "absolute values are compared",
    judge,
    "compare",
    lambda r, got, *f: _right["compare"](r._replace(value=np.abs(r.value)), np.abs(got), *f),
)


def _judging(change: Callable[..., Any]) -> Callable[..., Any]:
    """A judge that is given something else."""
    return lambda case, params, states, claims: _right["judge"](*change(case, params, states, claims))


def _only(case: Case, layer: int) -> Any:
    return replace(case, layers=case.layers[layer : layer + 1])


def _truth(case: Case) -> list[LayerState]:
    """The oracle's own moments, rounded."""
    pairs = [_right["moments"](case, layer, CLAIMS) for layer in case.layers]
    dtype = compute_format(case.dtype).numpy
    return [
        LayerState(np.asarray(m.value).astype(dtype), np.asarray(v.value).astype(dtype), case.t + 1) for m, v in pairs
    ]


_of_one(
    "first-layer-only",
    "other layers than the first are not looked at",
    judge,
    "judge",
    _judging(lambda case, p, s, claims: (_only(case, 0), p[:1], s[:1], claims)),
)
_of_one(
    "moments-not-judged",
    "m and v are taken for granted",
    judge,
    "judge",
    _judging(lambda case, p, s, claims: (case, p, _truth(case), claims)),
)
_of_one(
    "theta-not-judged",
    "θ is taken for granted",
    judge,
    "judge",
    lambda case, p, s, claims: _moments_alone(_right["judge"](case, p, s, claims)),
)


def _moments_alone(verdict: judge.Verdict) -> judge.Verdict:
    return replace(verdict, parted_at=None, parted_layer=None) if verdict.parted_at == "param" else verdict


# Questions with known answers. Each raises AssertionError if the kit gets one wrong.


def known_ratios() -> None:
    """A single coordinate at 0.9 or 1.1 of its bound, above or below, first, in the middle or last."""
    for sign in (1, -1):
        for at in range(4):
            for share in (0.9, 1.1, 5.0):
                value = np.array([1.0, -2.0, 3.0, -4.0])
                bound = np.array([1e-6, 1e-5, 1e-7, 1e-6])
                got = value.copy()
                got[at] += sign * share * bound[at]
                score, _ = judge.compare(Reference(value, bound, np.ones(4, bool)), got, "float64", "float32")
                _hold(abs(score.ratio / share - 1) < 1e-6, (sign, at, share, score.ratio))
    score, _ = judge.compare(
        Reference(np.ones(2), np.full(2, 1e-6), np.ones(2, bool)), -np.ones(2), "float64", "float32"
    )
    _hold(score.ratio > 1)


def no_number_is_no_answer() -> None:
    """NaN and infinities are infinitely far from a number."""
    for bad in (np.nan, np.inf, -np.inf):
        reference = Reference(np.array([1.0, 2.0]), np.full(2, 1e300), np.ones(2, bool))
        score, _ = judge.compare(reference, np.array([1.0, bad]), "float32", "float32")
        _hold(score.ratio == np.inf, bad)


def domain() -> None:
    """A plain layer is judged wholly; one whose g² overflows not at all."""
    plain, huge = _one_layer("float32", 5), _one_layer("float32", 5)
    huge.grad[0] = 1e30
    for layer, expected in ((plain, 5), (huge, 0)):
        case = Case("float32", (layer,))
        verdict = judge.judge(case, *_answer(case), CLAIMS)
        _hold(verdict.scores["param"].judged == expected)
        _hold(verdict.conforms)


def second_oracle() -> None:
    """The oracle's values are those of the second oracle, to a hundredth of the bound.

    The moments of these cases are numbers of every format, so that θ has one starting point.
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
    """Where all else is exact, the bound is a number that can be written down: docs/bound.md.

    With β = ½ and a constant layer, sums of the constants; with zeros, the underflows; with η = 0, the
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
    """The worst error/bound of correct implementations: near 1 for θ, which is rounded last, never above."""
    for dtype in ("float32", "float64"):
        for name in ("plain", "sum-chain", "flushing-inputs"):
            ratio, rejected = sampler.worst(VARIANTS[name].adapter(), dtype, 1500, seed=1)
            _hold(not rejected, (dtype, name, ratio))
            _hold(0.4 < ratio["m"] <= 1, (dtype, name, ratio))
            _hold(0.4 < ratio["v"] <= 1, (dtype, name, ratio))
            _hold(0.9 < ratio["param"] <= 1, (dtype, name, ratio))


def summation_class() -> None:
    """One chain over 2²⁰ coordinates leaves the pairwise bound of float32, and not its own; both classes
    know the chain of a short layer.
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
    """A thousandth off in one coordinate of any stage of any layer is found, and named."""
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
    """The checks that the kit, as it is at the moment, does not pass; the first alone if it is to stop there."""
    failed: list[str] = []
    for name, check in CHECKS.items():
        if stop and failed:
            break
        try:
            with np.errstate(all="ignore"):
                check()
        except Exception:  # a check that cannot even be made has noticed something, too
            failed.append(name)
    return failed


def check_kit(names: tuple[str, ...] | None = None) -> dict[str, list[str]]:
    """For each fault of the kit, the check that caught it: none, if it went unseen. The kit as it is goes by
    the empty name, and there no check may fail.
    """
    caught = {"": failing()}
    for name in KIT_FAULTS if names is None else names:
        with KIT_FAULTS[name].applied():
            caught[name] = failing(stop=True)
    return caught


def _one_layer(dtype: str, d: int) -> LayerCase:
    rng = np.random.default_rng(d)
    param, grad = (rng.normal(size=d).astype(FORMATS[dtype].numpy) for _ in range(2))
    return fresh_layer(param, grad)


def _answer(case: Case, adapter: Implementation | None = None) -> tuple[list[Any], list[LayerState]]:
    """What a correct implementation makes of the case."""
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
    """A number of the oracle's arithmetic, as the second oracle has it."""
    if hasattr(x, "_mpf_"):
        return context.mpf(x)
    mantissa, exponent = np.frexp(x)
    high = float(mantissa)
    return context.ldexp(context.mpf(high) + context.mpf(float(mantissa - type(x)(high))), int(exponent))


def _hold(condition: object, told: Any = "") -> None:
    """An assertion that `python -O` keeps."""
    if not condition:
        raise AssertionError(told)
