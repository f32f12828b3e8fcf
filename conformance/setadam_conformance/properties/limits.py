"""Properties of edge cases, where the step has a closed form that needs no oracle."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from setadam_conformance.cases import strategies as of
from setadam_conformance.cases.case import Case, LayerCase, dtype_of, map_layer
from setadam_conformance.cases.formats import FORMATS, compute_format
from setadam_conformance.judging.bench import Bench
from setadam_conformance.judging.judge import judge
from setadam_conformance.properties.registry import layerwise, prop
from setadam_conformance.protocol import Capabilities

Cases = st.SearchStrategy[Case]


@prop(
    lambda c, d: of.cases(c, d, shape=of.few(c, (65,), [(2,), (9,), (65,), (4, 4)]), count=st.just(1),
                          exponent=st.integers(-3, 3), extra=st.fixed_dictionaries({"seed": st.integers(0, 999)})),
    applies=lambda claims: claims.is_elementwise,
    usual_graphs=True,
)  # fmt: skip
def coordinates_are_independent(bench: Bench, case: Case) -> None:
    """NaN or ±Inf in one coordinate of a gradient stays there: all other coordinates take their step, within the bound.

    For implementations without down-scaling and translation, such as Adam. Catches a norm, a clip or a check over the
    whole layer. Source: Adam's operations are elementwise.
    """
    (layer,) = case.layers
    at = case.extra["seed"] % layer.grad.size
    for bad in (np.nan, np.inf, -np.inf):
        grad = layer.grad.copy()
        grad.flat[at] = bad
        spoilt = replace(case, layers=(replace(layer, grad=grad),))
        bench.spreads(spoilt, bench.conform(spoilt))


def _constant(claims: Capabilities, dtype: str) -> Cases:
    hp = of.just(tau=0.9, eps=1e-12)
    single = of.cases(claims, dtype, shape=st.just((1,)), count=st.just(1), hp=hp)
    sizes = of.few(claims, 65, [2, 3, 8, 65, 300, 1031])
    return st.tuples(single, sizes).map(lambda x: replace(x[0], extra={"d": x[1]}))


@prop(_constant)
def constant_layer(bench: Bench, case: Case) -> None:
    """A constant layer has γ = 1, and each of its coordinates takes the step of a layer of one coordinate.

    The sums of d equal terms are rounded, and their quotient may exceed 1, so the step of the large layer is held to
    the bound of the single coordinate. Source: γ = 1 iff v is constant.
    """
    single, d = case.layers[0], case.extra["d"]
    answer = bench.conform(replace(case, layers=(map_layer(lambda x: np.repeat(x, d), single),)))
    # The bound of the single coordinate is smaller: d adds to γ's error.
    first = [p[:1] for p in answer.params], [s._replace(m=s.m[:1], v=s.v[:1]) for s in answer.states]
    verdict = judge(case, *first, replace(bench.claims, reduction="any"))
    u = compute_format(case.dtype).u
    allowed = 1 + (3 * (16 + 8 * np.ceil(np.log2(d))) + 8) * u / (2 * u)  # κ's share, halved by the root
    bench.require(
        verdict.scores["param"].ratio <= allowed, "the step of a constant layer is not that of its coordinate", case
    )


def _zeros(claims: Capabilities, dtype: str) -> Cases:
    @st.composite
    def draw_case(draw: st.DrawFn) -> Case:
        shape, t = draw(of.shapes(claims)), draw(st.sampled_from(of.STEPS))
        rng = np.random.default_rng(draw(st.integers(0, 999)))
        param = (rng.normal(size=shape) * draw(st.sampled_from([0.0, 1.0]))).astype(dtype_of(dtype))
        zero = np.zeros(shape, dtype_of(dtype))
        moment = np.zeros(shape, compute_format(dtype).numpy)
        hp = {**draw(of.hyperparameters(claims, usual=False)), "weight_decay": 0.0}
        return Case(dtype, (LayerCase(param, zero, moment, moment.copy()),), t, hp)

    return draw_case()


@prop(_zeros)
def all_zero_layer(bench: Bench, case: Case) -> None:
    """A layer that never had a gradient does not change, its moments are zero, and there is no NaN.

    γ is 0/0 here, and any value of it gives this step. In float16, ε = 1e-8 underflows unless it is kept in float32
    (optax.adam gives NaN). Source: pytorch-lamb#6.
    """
    answer = bench.step(case)
    bench.same_bits(answer.params, [x.param for x in case.layers], "a zero gradient moved θ", case)
    bench.same_bits([s.v for s in answer.states], [x.v for x in case.layers], "v' is not zero", case)
    bench.same_bits([s.m for s in answer.states], [x.m for x in case.layers], "m' is not zero", case)


@prop(lambda c, d: of.cases(c, d, shape=of.few(c, (0,), [(0,), (0, 3), (3, 0)]), count=of.few(c, 2, [1, 2])),
      needs=("empty",), share=0.1)  # fmt: skip
def empty_layers(bench: Bench, case: Case) -> None:
    """Arrays without elements are returned unchanged, and other layers in the list are unaffected.

    The minimum of an empty array raises an error in most libraries. Source: pytorch#119885.
    """
    one = np.ones(3, dtype_of(case.dtype))
    moment = np.ones(3, case.layers[0].m.dtype)
    if "many" in bench.claims.options:
        case = replace(case, layers=(*case.layers, LayerCase(one, one, moment, moment)))
    answer = bench.conform(case)
    bench.require(
        all(p.shape == x.param.shape for p, x in zip(answer.params, case.layers, strict=True)),
        "an empty array changed its shape",
        case,
    )


@prop(
    lambda c, d: of.cases(c, d, hp=st.sampled_from([of.defaults(beta1=0), of.defaults(beta1=0, beta2=0)])),
    applies=lambda claims: not claims.compiles,
)
def zero_betas(bench: Bench, case: Case) -> None:
    """β = 0 gives m' = g and v' = g², and a bias correction of exactly 1: the step must not take log 0.

    The moments are within the bound, not exact: lerp forms m + 1·(g - m), which rounds. Source: the paper's algorithm.
    """
    bench.conform(case)


@prop(lambda c, d: of.cases(c, d, hp=_extreme(c)))
def limits_in_tau_and_beta(bench: Bench, case: Case) -> None:
    """τ and β close to 1 and at 0: w̃ is positive, the bias corrections are accurate, and θ is within the bound.

    1 - τ and 1 - β are small here, so an error made before the subtraction becomes large. Source: docs/bound.md.
    """
    bench.conform(case)


def _extreme(claims: Capabilities) -> st.SearchStrategy[dict[str, Any]]:
    if claims.compiles:
        return of.just(tau=0.999, beta1=0.9999, beta2=0.999999)
    return st.fixed_dictionaries(
        {
            **{k: st.just(x) for k, x in of.defaults().items()},
            "tau": st.sampled_from([0.0, 0.9, 0.999]),
            "beta1": st.sampled_from([0.0, 1e-3, 0.9999]),
            "beta2": st.sampled_from([0.0, 1e-3, 0.999999]),
            "eps": st.sampled_from([1e-8, 1e-20]),
        }
    )


@prop(
    lambda c, d: of.cases(c, d, hp=of.just(cos_power=0.0, tau=0.0), exponent=st.integers(-6, 4)),
    needs=("cos_power",),
    free=("tau", "eps_inside_sqrt"),
)
def adam_identity(bench: Bench, case: Case) -> None:
    """With S and T off, the step is Adam with ε under the root: `optax.adam(eps=0, eps_root=ε)`.

    Adam is written out here in float64, without the specification or the oracle. The step may differ from it by the
    rounding of a dozen operations and of θ. Source: Adam's definition.
    """
    answer = bench.conform(case)
    hp, t = case.hp, case.t + 1
    u, us = compute_format(case.dtype).u, FORMATS[case.dtype].u
    if case.dtype == "float64":
        return  # float64 cannot be judged in float64; `one-step` judges it
    for layer, theta in zip(case.layers, answer.params, strict=True):
        g = of.real(layer.grad)
        m = hp["beta1"] * of.real(layer.m) + (1 - hp["beta1"]) * g
        v = hp["beta2"] * of.real(layer.v) + (1 - hp["beta2"]) * g**2
        m_hat = m / -np.expm1(t * np.log(hp["beta1"]))
        v_hat = v / -np.expm1(t * np.log(hp["beta2"]))
        update = hp["lr"] * m_hat / np.sqrt(v_hat + hp["eps"])
        gauge = hp["lr"] / -np.expm1(t * np.log(hp["beta1"])) / np.sqrt(v_hat + hp["eps"])
        size = gauge * (np.abs(hp["beta1"] * of.real(layer.m)) + np.abs((1 - hp["beta1"]) * g))
        expected = of.real(layer.param) - update
        allowed = 20 * u * size + 2 * us * np.abs(expected) + FORMATS[case.dtype].smallest_normal
        overflows = np.abs(expected) + allowed >= FORMATS[case.dtype].largest
        close = overflows | (np.abs(of.real(theta) - expected) <= allowed)
        bench.require(bool(np.all(close)), "differs from Adam", case)


@prop(
    lambda c, d: of.cases(
        c, d, shape=of.usual_or(c, [(3,), (4, 4)]), count=st.just(2), exponent=st.integers(-3, 3), hp=of.just()
    ),
    needs=("many",),
    share=0.3,
    usual_graphs=True,
    narrow="float16",  # the square of its largest number fits in float32
    applies=layerwise,
)
def nan_and_infinity(bench: Bench, case: Case) -> None:
    """NaN or ±Inf in one coordinate of a gradient makes its whole layer NaN, and other layers are unaffected.

    γ and the minimum depend on every coordinate of the layer. A layer that is only partly NaN hides the fault, and
    nan_to_num hides it completely. With n = 0, γ is 1, and only the minimum spreads NaN. Source: the paper's algorithm.
    """
    sound, layer = case.layers
    switchable = "cos_power" in bench.claims.options and not bench.claims.compiles
    for bad in (np.nan, np.inf, -np.inf):
        grad = layer.grad.copy()
        grad.flat[0] = bad
        poisonous = replace(case, layers=(sound, replace(layer, grad=grad)))
        answer = bench.step(poisonous)
        poisoned = bool(np.isnan(of.real(answer.params[1])).all())
        bench.require(poisoned, f"a layer with a gradient of {bad} is not NaN throughout", case)
        bench.conform(replace(case, layers=(sound,)), type(answer)(answer.params[:1], answer.states[:1]))
        if switchable:
            by_minimum = poisonous.with_hp(cos_power=0.0)
            bench.spreads(by_minimum, bench.step(by_minimum))
