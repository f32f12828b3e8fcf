"""The oracle compared with the second one, and the claims of docs/bound.md about the bound."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setadam_conformance.cases import strategies
from setadam_conformance.cases.case import Case, fresh_layer, real_view
from setadam_conformance.cases.claimed import as_claimed
from setadam_conformance.cases.formats import FORMATS, Arithmetic, arithmetic_format, compute_format
from setadam_conformance.judging import oracle
from setadam_conformance.judging.exact import context, exact_step
from setadam_conformance.judging.judge import STAGES
from setadam_conformance.judging.memory import Memory
from setadam_conformance.protocol import ADAM, ADAMW, Capabilities

CLAIMS = Capabilities(dtypes=tuple(FORMATS))
DTYPES = list(FORMATS)
SMALL = st.sampled_from([(1,), (2,), (3,), (5,), (4, 4), (17,), ()])


def as_mp(x, wide):
    """A number of the oracle's arithmetic as an exact mpmath number."""
    if wide.dtype == object:
        return context.mpf(x)
    mantissa, exponent = np.frexp(x)  # scaled, so that the low part is not subnormal
    high = float(mantissa)
    return context.ldexp(context.mpf(high) + context.mpf(float(mantissa - type(x)(high))), int(exponent))


def disagreement(reference, exact, wide, bound):
    """The largest difference between the oracles over judged coordinates, in units of the bound."""
    judged = np.broadcast_to(reference.judged, np.shape(bound)).ravel()
    return max(
        (
            float(abs(as_mp(a, wide) - e) / as_mp(b, wide))
            for a, e, b, j in zip(np.ravel(reference.value), exact, np.ravel(bound), judged, strict=True)
            if j
        ),
        default=0.0,
    )


@pytest.mark.parametrize("longdouble", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_oracles_agree(dtype, longdouble):
    """Both oracles take the same step, in every arithmetic of the first."""
    if longdouble and np.finfo(np.longdouble).nmant < 63:
        pytest.skip("longdouble is no wider than float64 on this platform")
    wide = Arithmetic(compute_format(dtype).name, longdouble)

    @settings(max_examples=40 if longdouble else 12)
    @given(strategies.cases(CLAIMS, dtype, shape=SMALL))
    def compare(case):
        for layer in case.layers:
            exact = exact_step(case, layer)
            m, v = oracle.moments(case, layer, CLAIMS, wide)
            assert disagreement(m, exact.m, wide, m.bound) < 0.01
            assert disagreement(v, exact.v, wide, v.bound) < 0.01
            if not (np.all(m.judged) and np.all(v.judged)):
                return
            # θ's reference starts from the returned moments: use the exact ones, rounded to its arithmetic.
            shape = real_view(layer.param).shape
            held = [np.array([wide.number(x) for x in xs], wide.dtype).reshape(shape) for xs in (exact.m, exact.v)]
            theta = oracle.parameter(case, layer, *held, CLAIMS, _Passing(wide))
            assert disagreement(theta, exact.theta, wide, theta.bound) < 0.01

    compare()


@pytest.mark.parametrize(
    "claims",
    [
        {"fixed": ADAM},
        {"epsilon": "both"},
        {"epsilon": "uncorrected"},
        {"epsilon": "uncorrected", "fixed": ADAMW},
        {"corrected_moments": True},
        {"float32_scalars": ("lr", "beta2", "eps")},
        {"moments": "parameter"},
        {"moments": "parameter", "arithmetic": "parameter"},
    ],
    ids=str,
)
def test_oracles_agree_on_other_adams(claims):
    """Where claims change the formulas, both oracles change them alike."""
    claims = replace(CLAIMS, **claims)

    @settings(max_examples=30)
    @given(st.sampled_from(DTYPES).flatmap(lambda dtype: strategies.cases(CLAIMS, dtype, shape=SMALL)))
    def compare(drawn):
        case = as_claimed(drawn, claims)
        wide = oracle.arithmetic(arithmetic_format(case.dtype, claims).name)
        for layer in case.layers:
            exact = exact_step(case, layer, claims)
            m, v = oracle.moments(case, layer, claims)
            assert disagreement(m, exact.m, wide, m.bound) < 0.01
            assert disagreement(v, exact.v, wide, v.bound) < 0.01
            if not (np.all(m.judged) and np.all(v.judged)):
                return
            shape = real_view(layer.param).shape
            held = [np.array([wide.number(x) for x in xs], wide.dtype).reshape(shape) for xs in (exact.m, exact.v)]
            theta = oracle.parameter(case, layer, *held, claims, _Passing(wide))
            assert disagreement(theta, exact.theta, wide, theta.bound) < 0.01

    compare()


class _Passing(Arithmetic):
    """The same arithmetic, which also accepts arrays that are already in it."""

    def __init__(self, wide):
        self.__dict__.update(wide.__dict__)

    def array(self, x):
        x = np.asarray(x)
        return x if x.dtype == self.dtype and x.dtype == object else super().array(x)


def test_axes_of_the_second_oracle_are_layers():
    """A stacked array takes the steps of its slices."""

    @settings(max_examples=20)
    @given(strategies.cases(CLAIMS, "float32", shape=st.just((3, 4)), count=st.just(1)))
    def compare(case):
        layer = replace(case.layers[0], axes=(1,))
        stacked = exact_step(case, layer).theta
        for row in range(3):
            alone = replace(
                layer, param=layer.param[row], grad=layer.grad[row], m=layer.m[row], v=layer.v[row], axes=None
            )
            assert exact_step(case, alone).theta == stacked[4 * row : 4 * row + 4]

    compare()


def test_chain_lengths():
    assert [oracle.chain(d, "any") for d in (0, 1, 2, 100)] == [0, 0, 1, 99]
    assert oracle.chain(65, "pairwise") == 64  # what the kit relies on for strided layers
    assert oracle.chain(2**20, "pairwise") == 16 + 8 * 20


def test_bounds_widen_with_what_is_claimed():
    """A claim never makes the bound narrower."""

    @settings(max_examples=30)
    @given(strategies.cases(CLAIMS, "float32", shape=st.sampled_from([(3,), (300,)]), count=st.just(1)))
    def compare(case):
        layer = case.layers[0]
        m, v = oracle.moments(case, layer, CLAIMS)
        plain = oracle.parameter(case, layer, layer.m, layer.v, CLAIMS)
        for claim in (
            {"reduction": "any"},
            {"flushes_subnormals": True},
            {"traced_t": True},
            {"recomputes_moments": True},
        ):
            claims = replace(CLAIMS, **claim)
            wider = oracle.parameter(case, layer, layer.m, layer.v, claims, moment_bounds=(m.bound, v.bound))
            both = plain.judged & wider.judged
            if claim != {"recomputes_moments": True}:
                assert np.all((wider.bound >= plain.bound)[both])
            assert np.all(np.isfinite(wider.bound[both]))

    compare()


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.heavy)])
def test_bound_is_valid_and_not_too_wide(dtype, spec, verdicts):
    """docs/bound.md, "What the tests check": the specification over the whole default profile."""
    cells = verdicts(spec, dtype, profile="default")
    assert {cell.status for cell in cells.values()} == {"pass"}
    ratio = {stage: max(c.stages[stage].ratio for c in cells.values() if c.stages) for stage in STAGES}
    assert 0.3 < ratio["m"] <= 1
    assert 0.3 < ratio["v"] <= 1
    assert 0.5 < ratio["param"] <= 1
    medians = {stage: cells["one-step"].stages[stage].median for stage in STAGES}
    assert 0.01 < medians["m"] < 0.5
    assert 0.02 < medians["v"] < 0.5
    assert 0.02 < medians["param"] < 0.5


def test_references_are_remembered_by_their_inputs_and_forgotten_by_their_size():
    layers = [fresh_layer(np.ones(40, np.float32), np.full(40, g, np.float32)) for g in (1, 2, 3)]
    case = Case("float32", tuple(layers))
    memory, made = Memory(most=300), []

    def recall(layer, claims=CLAIMS, *also):
        return memory.recall(lambda: made.append(None) or len(made), case, layer, claims, *also)

    assert recall(layers[0]) == 1
    assert recall(replace(layers[0], grad=layers[0].grad.copy())) == 1
    assert recall(layers[0], replace(CLAIMS, traced_t=True)) == 2  # 144 coordinates each
    assert recall(layers[0], CLAIMS, layers[1].grad) == 3  # 104 more, so the least recently used is forgotten
    assert recall(layers[0], replace(CLAIMS, traced_t=True)) == 2
    assert recall(layers[0]) == 4
    memory.forget()
    assert recall(layers[0]) == 5
