"""The comparator, on results with a known distance from the reference."""

import numpy as np
import pytest

from setadam_conformance.cases.case import Case, LayerCase, case_from_json, case_to_json, fresh_layer
from setadam_conformance.judging import oracle
from setadam_conformance.judging.bench import Bench
from setadam_conformance.judging.judge import Score, compare, judge
from setadam_conformance.protocol import Capabilities

CLAIMS = Capabilities(dtypes=("float32",))


def one_layer(d=5, dtype=np.float32):
    rng = np.random.default_rng(3)
    return fresh_layer(rng.normal(size=d).astype(dtype), rng.normal(size=d).astype(dtype))


@pytest.mark.parametrize(("share", "conforms"), [(0.9, True), (1.1, False), (-0.9, True), (-1.1, False), (20, False)])
def test_ratio_is_error_over_bound(share, conforms):
    reference = oracle.Reference(np.array([1.0, 2.0]), np.array([1e-6, 1e-6]), np.array([True, True]))
    score, _ = compare(reference, np.array([1.0, 2.0 + share * 1e-6]), "float32")
    assert score.ratio == pytest.approx(abs(share), rel=1e-6)
    assert (score.ratio <= 1) is conforms
    assert score.coordinate == (1,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_only_finite_numbers_conform(bad):
    reference = oracle.Reference(np.array([1.0, 2.0]), np.array([1e300, 1e300]), np.array([True, True]))
    score, _ = compare(reference, np.array([1.0, bad]), "float32")
    assert score.ratio == np.inf


def test_unjudged_coordinates_are_counted_but_not_compared():
    reference = oracle.Reference(np.array([1.0, 2.0, 3.0]), np.full(3, 1e-9), np.array([True, False, True]))
    score, _ = compare(reference, np.array([1.0, 99.0, 3.0]), "float32")
    assert (score.judged, score.not_judged, score.ratio) == (2, 1, 0.0)


def test_scores_keep_the_worse_and_add_the_counts():
    score = Score(ratio=0.5, coordinate=(0,), judged=2)
    score.absorb(Score(ratio=0.7, coordinate=(1,), judged=1, not_judged=4))
    assert (score.ratio, score.coordinate, score.judged, score.not_judged) == (0.7, (1,), 3, 4)


@pytest.mark.parametrize("stage", ["m", "v", "param"])
def test_a_fault_is_reported_in_the_stage_that_has_it(stage, spec):
    """A fault in v is reported in v, because θ is judged from the returned v."""
    case = Case("float32", (one_layer(), one_layer(3)))
    answer = Bench(spec, "float32").step(case)
    broken = getattr(answer.states[1], stage) if stage != "param" else answer.params[1]
    broken *= np.float32(1.0001)
    verdict = judge(case, answer.params, answer.states, CLAIMS)
    assert not verdict.conforms
    assert (verdict.parted_at, verdict.parted_layer) == (stage, 1)


def test_an_overflow_leaves_its_whole_layer_unjudged(spec):
    huge, plain = one_layer(), one_layer()
    huge.grad[0] = 1e30
    case = Case("float32", (huge, plain))
    answer = Bench(spec, "float32").step(case)
    verdict = judge(case, answer.params, answer.states, CLAIMS)
    assert verdict.scores["param"].not_judged == 5
    assert verdict.scores["param"].judged == 5
    assert verdict.conforms


def test_cases_survive_json_bit_for_bit():
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(2, 3)) + 1j * rng.normal(size=(2, 3))).astype(np.complex64)
    odd = np.array([0.0, -0.0, np.inf, np.nan, 1e-45], np.float32)
    layers = (fresh_layer(z, z * 2), LayerCase(odd, odd, odd, odd), fresh_layer(np.float32(3)[...], np.float32(1)[...]))
    case = Case("float32", layers, 7, {"lr": 0.1, "maximize": True}, {"seed": 3})
    back = case_from_json(case_to_json(case))
    assert (back.dtype, back.t, back.hp, back.extra) == (case.dtype, 7, case.hp, {"seed": 3})
    for a, b in zip(case.layers, back.layers, strict=True):
        for name in ("param", "grad", "m", "v"):
            x, y = getattr(a, name), getattr(b, name)
            assert x.dtype == y.dtype
            assert x.shape == y.shape
            assert x.tobytes() == y.tobytes()
