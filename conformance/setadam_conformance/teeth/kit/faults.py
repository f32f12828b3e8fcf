"""Faults of the kit itself: a bound ten times too wide, an oracle rounded too early, a comparator that ignores
coordinates. Each temporarily replaces a function of `oracle` or `judge`. All checks of `checks.py` must pass on the
unchanged kit, and at least one must fail under each fault.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from setadam_conformance.cases.case import Case
from setadam_conformance.cases.formats import compute_format
from setadam_conformance.judging import judge, oracle
from setadam_conformance.judging.memory import memory
from setadam_conformance.judging.oracle import Reference
from setadam_conformance.protocol import LayerState
from setadam_conformance.teeth.kit.checks import CLAIMS, failing

_right: dict[str, Callable[..., Any]] = {  # the originals, before any fault is applied
    "moments": oracle.moments,
    "parameter": oracle.parameter,
    "chain": oracle.chain,
    "compare": judge.compare,
    "judge": judge.judge,
}


@dataclass(frozen=True)
class KitFault:
    """A fault of the kit: the functions that it replaces, as (module, name, replacement)."""

    name: str
    what: str
    replaced: tuple[tuple[Any, str, Callable[..., Any]], ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        before = [(module, name, getattr(module, name)) for module, name, _ in self.replaced]
        for module, name, stand_in in self.replaced:
            setattr(module, name, stand_in)
        memory.forget()
        try:
            yield
        finally:
            memory.forget()
            for module, name, original in before:
                setattr(module, name, original)


KIT_FAULTS: dict[str, KitFault] = {}


def _of_references(name: str, what: str, change: Callable[[Reference], Reference]) -> None:
    """A fault in every reference that the oracle returns."""

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
    "the widest bound of a layer, used for all its coordinates",
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
_of_references("all-judged", "the domain of the bound is ignored", lambda r: r._replace(judged=np.ones_like(r.judged)))
_of_one("class-ignored", "every sum may be one chain", oracle, "chain", lambda d, reduction: max(d - 1, 0))
_of_one(
    "class-too-strict",
    "every sum may have at most eight roundings",
    oracle,
    "chain",
    lambda d, reduction: min(d - 1, 8),
)


def _without(name: str, *fields: str, default: Any) -> Callable[..., Any]:
    """An oracle function that uses fixed values for some hyperparameters."""

    def stand_in(case: Case, *args: Any, **kwargs: Any) -> Any:
        return _right[name](case.with_hp(**dict.fromkeys(fields, default)), *args, **kwargs)

    return stand_in


_of_one("oracle-without-tau", "the oracle leaves out T", oracle, "parameter", _without("parameter", "tau", default=0.0))
_of_one(
    "oracle-without-gamma",
    "the oracle leaves out S",
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
    "the oracle leaves out weight decay",
    oracle,
    "moments",
    _without("moments", "weight_decay", default=0.0),
)
_of_one(
    "oracle-t-late",
    "the oracle uses t in place of t+1",
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
    """A comparator that picks another coordinate than the worst one."""

    def compare(reference: Reference, got: Any, compute: str) -> Any:
        score, median = _right["compare"](reference, got, compute)
        value, bound, judged = (np.broadcast_to(x, got.shape).ravel() for x in reference)
        alone = [
            _right["compare"](Reference(value[i : i + 1], bound[i : i + 1], judged[i : i + 1]), got.ravel()[i : i + 1],
                              compute)[0]
            for i in range(got.size) if judged[i]
        ]  # fmt: skip
        return (replace(score, ratio=choose(alone).ratio) if alone else score), median

    return compare


def _changed(change: Callable[[Reference, Any], Any]) -> Callable[..., Any]:
    """A comparator that compares other numbers than the returned ones."""
    return lambda reference, got, compute: _right["compare"](reference, change(reference, got), compute)


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
_of_one("first-for-max", "only the first coordinate is compared", judge, "compare", _each_alone(lambda s: s[0]))
_of_one(
    "last-left-out",
    "the last coordinate is not compared",
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
    "a value that is too small conforms: error in place of |error|",
    judge,
    "compare",
    _changed(lambda r, got: np.where(got < _expected(r), _expected(r), got)),
)
_of_one(
    "sign-of-value-lost",
    "absolute values are compared",
    judge,
    "compare",
    lambda r, got, compute: _right["compare"](r._replace(value=np.abs(r.value)), np.abs(got), compute),
)


def _judging(change: Callable[..., Any]) -> Callable[..., Any]:
    """A judge that gets other arguments."""
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
    "only the first layer is judged",
    judge,
    "judge",
    _judging(lambda case, p, s, claims: (_only(case, 0), p[:1], s[:1], claims)),
)
_of_one(
    "moments-not-judged",
    "m and v are not judged",
    judge,
    "judge",
    _judging(lambda case, p, s, claims: (case, p, _truth(case), claims)),
)
_of_one(
    "theta-not-judged",
    "θ is not judged",
    judge,
    "judge",
    lambda case, p, s, claims: _moments_alone(_right["judge"](case, p, s, claims)),
)


def _moments_alone(verdict: judge.Verdict) -> judge.Verdict:
    return replace(verdict, parted_at=None, parted_layer=None) if verdict.parted_at == "param" else verdict


def check_kit(names: tuple[str, ...] | None = None) -> dict[str, list[str]]:
    """For each fault of the kit, the checks that noticed it. The unchanged kit has the empty name, and no check may
    fail on it.
    """
    caught = {"": failing()}
    for name in KIT_FAULTS if names is None else names:
        with KIT_FAULTS[name].applied():
            caught[name] = failing(stop=True)
    return caught
