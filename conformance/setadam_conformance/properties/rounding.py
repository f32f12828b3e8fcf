"""Properties of backends that round 16-bit parameters stochastically."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from setadam_conformance.cases import strategies as of
from setadam_conformance.cases.case import Case, LayerCase, dtype_of, map_layer
from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.judging import oracle
from setadam_conformance.judging.bench import Answer, Bench, NonconformingError
from setadam_conformance.judging.draws import Draws, draws, refuted
from setadam_conformance.properties.registry import prop
from setadam_conformance.properties.sharded import Sharded
from setadam_conformance.protocol import Capabilities
from setadam_core import Rounding
from setadam_core.rounding import random_words

Cases = st.SearchStrategy[Case]

_NARROW = ("bfloat16", "float16")
_SEEDS = [0, 1, 7, 2**31, 2**32 - 1]


def _has(claims: Capabilities) -> bool:
    return claims.stochastic_rounding != "none" and claims.arithmetic == "compute"


def _is_specified(claims: Capabilities) -> bool:
    return claims.stochastic_rounding == "specified" and _has(claims)


def _seeds(claims: Capabilities) -> st.SearchStrategy[int]:
    """A compiled program may have the seed as a constant."""
    return of.few(claims, _SEEDS[2], _SEEDS)


def _seeded(claims: Capabilities, dtype: str) -> Cases:
    both = st.tuples(of.cases(claims, dtype), _seeds(claims))
    return both.map(lambda drawn: replace(drawn[0], seed=drawn[1]))


@prop(_seeded, applies=_has)
def stochastic_rounding(bench: Bench, case: Case) -> None:
    """A 16-bit θ is one of the two neighbours of a number within the bound of a step before rounding.

    So the update is not rounded twice, nor lost before it is rounded at random. A wider θ is within its bound, as
    without the option, and m and v are those of any step. Source: docs/bound.md, "Stochastic rounding".
    """
    bench.conform(case)


def _many_draws(claims: Capabilities, dtype: str) -> Cases:
    @st.composite
    def draw_case(draw: st.DrawFn) -> Case:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        d, compute = 2**15, np.float32
        theta, grad = (rng.normal(size=d).astype(dtype_of(dtype)) for _ in range(2))
        m, v = rng.normal(size=d).astype(compute), (rng.normal(size=d) ** 2).astype(compute)
        layers = tuple(LayerCase(theta.copy(), grad.copy(), m.copy(), v.copy()) for _ in range(_count(claims)))
        return Case(dtype, layers, draw(st.sampled_from([0, 999])), of.defaults(lr=0.05), {}, draw(_seeds(claims)))

    return draw_case()


def _count(claims: Capabilities) -> int:
    return 2 if "many" in claims.options else 1


@prop(_many_draws, applies=_has, dtypes=_NARROW, share=0.1)
def stochastic_rounding_is_unbiased(bench: Bench, case: Case) -> None:
    """Over many coordinates, the upper neighbour is as frequent as the exact value is near to it, and draws are
    independent: of two neighbours, of two layers, of two steps, of two seeds. The same call gives the same bits.

    Each test would reject a correct generator for less than one seed in 10⁹. Finds rounding up, down, to nearest and
    towards 0; random numbers that are used again; and probabilities that are off by some hundredths. Source:
    docs/bound.md, "Stochastic rounding", by Hoeffding's inequality.
    """
    other_seed: Any = {"seed": ((case.seed or 0) + 1) % 2**32}
    variants = [case, replace(case, t=case.t + 1), replace(case, **other_seed)]
    answers = [bench.conform(each) for each in variants]
    if bench.claims.deterministic:
        bench.same_bits(bench.step(case).params, answers[0].params, "the same seed and t gave other bits", case)
    found = [_draws_of(bench, each, answer) for each, answer in zip(variants, answers, strict=True)]
    (first, *others), next_t, next_seed = found
    pairs = {
        "t": (first, next_t[0]),
        "the seed": (first, next_seed[0]),
        "their neighbouring place": (first.at(slice(0, None, 2)), first.at(slice(1, None, 2))),
    }
    if others:
        pairs["the layer"] = (first, others[0])
    message = refuted([each for layers in found for each in layers], pairs)
    bench.require(not message, message, case)


def _draws_of(bench: Bench, case: Case, answer: Answer) -> list[Draws]:
    """Of each layer."""
    found = []
    for layer, param, state in zip(case.layers, answer.params, answer.states, strict=True):
        m, v = oracle.moments(case, layer, bench.claims)
        before = oracle.before_rounding(case, layer, state.m, state.v, bench.claims, (m.bound, v.bound))
        found.append(draws(before, param, FORMATS[case.dtype]))
    return found


_RATE, _DECAY = 0.5, 2.0**-8  # their product has one bit, so (1-ηλ)θ is exact in float32
_PLACES: list[tuple[tuple[int, ...], tuple[int, ...] | None]] = [
    ((7, 5), None), ((3, 4, 5), (1, 2)), ((70,), None), ((4, 6), (0,)), ((), None), ((1, 33), None), ((2, 3), ()),
]  # fmt: skip


@st.composite
def _exact_cases(draw: st.DrawFn, claims: Capabilities, dtype: str) -> Case:
    """Steps that only decay: g and m are 0, so θ before rounding is known to the bit."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(of.few(claims, 2, [1, 2, 3])) if "many" in claims.options else 1
    layers = []
    for i in range(count):
        shape, axes = _PLACES[i] if claims.compiles else draw(st.sampled_from(_PLACES))
        exponent = rng.integers(-14, 15) if dtype == "float16" else rng.integers(-90, 90)
        theta = (2.0**exponent * rng.normal(size=shape)).astype(dtype_of(dtype))
        zero = np.zeros(shape, dtype_of(dtype))
        v = np.asarray(rng.random(shape), np.float32)
        layer = LayerCase(theta, zero, np.zeros(shape, np.float32), v, axes if "layer_axes" in claims.options else None)
        if not claims.compiles and theta.ndim > 1 and rng.random() < 0.5:  # in the other order in memory
            layer = map_layer(np.asfortranarray, layer)
        layers.append(layer)
    t = draw(st.sampled_from([0, 1, 2, 999, 2**24, 2**31 - 2]))
    hp = of.defaults(lr=_RATE, weight_decay=_DECAY, decoupled_weight_decay=True)
    return Case(dtype, tuple(layers), t, hp, {}, draw(_seeds(claims)))


_ABOUT_BITS: dict[str, Any] = {
    "needs": ("weight_decay", "decoupled_weight_decay"),
    "free": ("lr",),
    "dtypes": _NARROW,
}


@prop(_exact_cases, applies=_is_specified, **_ABOUT_BITS)
def stochastic_rounding_bits(bench: Bench, case: Case) -> None:
    """Where θ before rounding is exact, each coordinate is the neighbour that the specification's random words choose.

    They belong to the seed, t, the layer's place in the call and the coordinate's place in the layer's array, in C
    order whatever the order in memory. So a run can be resumed, and neither blocks, threads nor paths change it. g and
    m are 0 here, so that all of a step is (1-ηλ)θ. Source: `setadam_core.rounding`.
    """
    _has_the_bits(bench, case, bench.step(case))


@st.composite
def _near_thresholds(draw: st.DrawFn, claims: Capabilities, dtype: str) -> Case:
    """One large layer of `_exact_cases` in which each θ is where its random word barely decides.

    With θ a whole number N of units in the last place, (1 - 2⁻⁹)N is 1 - (N mod 512)/512 of the way to the neighbour
    that is farther from 0, and N can be chosen by the word.
    """
    d, seed, t = 2**19, draw(_seeds(claims)), draw(st.sampled_from([0, 1, 999]))
    bits = 8 if dtype == "bfloat16" else 11
    least = random_words(seed, t + 1, 0, np.arange(d)).astype(np.int64) % 2**32 // 2**23  # of 512 parts
    least = least + np.arange(d) % 2  # the word is above the threshold, or below
    whole = np.where(bits > 9, 1024 + least % 512, np.clip(least, 2**7 + 1, 2**8 - 1))
    sign = 1 - 2 * (np.arange(d) // 2 % 2)
    theta = (sign * whole * 2.0 ** draw(st.integers(-9, 4))).astype(dtype_of(dtype))
    moments = (np.zeros(d, np.float32), np.ones(d, np.float32))
    hp = of.defaults(lr=_RATE, weight_decay=_DECAY, decoupled_weight_decay=True)
    return Case(dtype, (LayerCase(theta, np.zeros_like(theta), *moments),), t, hp, {}, seed)


@prop(_near_thresholds, applies=_is_specified, share=0.05, **_ABOUT_BITS)
def stochastic_rounding_thresholds(bench: Bench, case: Case) -> None:
    """A probability that is off by 2⁻²⁴ is seen: each θ is where its random word barely decides.

    In a layer of 2¹⁹ coordinates, some words equal their thresholds. Finds > in place of ≥, words of fewer bits, and
    blocks that count from 0. Source: `setadam_core.rounding.round_stochastically`.
    """
    _has_the_bits(bench, case, bench.step(case))


@prop(
    _exact_cases,
    applies=lambda claims: _is_specified(claims) and bool(claims.layouts),
    share=0.1,
    **_ABOUT_BITS,
)
def stochastic_rounding_sharded(bench: Bench, case: Case) -> None:
    """A layer that is sharded gets the bits of the whole layer, or an error that names the option.

    Rounding a shard by the places in the shard would make the run depend on the number of devices.
    Source: `setadam_core.rounding`.
    """
    for layout in bench.claims.layouts:
        spread: Any = Sharded(bench.adapter, layout)
        try:
            answer = bench.step(case, spread)
        except NonconformingError as error:
            if "stochastic_rounding" not in error.message:
                raise
            continue
        _has_the_bits(bench, case, answer)


def _has_the_bits(bench: Bench, case: Case, answer: Answer) -> None:
    for i, (layer, param) in enumerate(zip(case.layers, answer.params, strict=True)):
        before = np.asarray(layer.param.astype(np.float32) * np.float32(1 - _RATE * _DECAY))
        expected = np.asarray(Rounding(case.seed or 0, i).round(before, layer.param.dtype, case.t + 1), np.float32)
        wrong = expected != param.astype(np.float32)
        if bench.claims.flushes_subnormals:
            wrong &= np.abs(before) >= 2 * FORMATS[case.dtype].smallest_normal
        if np.any(wrong):
            at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            place = tuple(int(k) for k in at)
            bench.fail(
                f"θ of layer {i} at {place} is {before[at]:.9g} before rounding, and must become {expected[at]:.9g} "
                f"for the seed {case.seed} in step {case.t + 1}, got {float(param[at]):.9g}",
                case,
            )
