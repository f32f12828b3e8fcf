"""The specification agrees with the conformance kit's oracle under every namespace."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from setadam_conformance.cases.case import Case, LayerCase, fresh_layer
from setadam_core import Hyperparameters

REAL = {"complex64": "float32", "complex128": "float64"}
DECAY = {"weight_decay": 0.1}

# name: (shape, layer axes, steps taken, scale of the gradients, changed hyperparameters)
SCENARIOS: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None, int, float, dict[str, Any]]] = {
    "first": ((5, 3), None, 0, 1.0, {}),
    "mid-run": ((5, 3), None, 499, 1e-2, {}),
    "small": ((5, 3), None, 9, 1e-7, {"eps": 1e-16}),
    "scalar": ((), None, 3, 1.0, {}),
    "empty": ((0, 3), None, 3, 1.0, {}),
    "long": ((1003,), None, 3, 1.0, {"beta1": 0.0, "beta2": 0.5, "lr": 0.3}),
    "stack": ((4, 3, 2), (1, 2), 9, 1.0, {}),
    "negative-axis": ((4, 3), (-1,), 9, 1.0, {}),
    "every-coordinate": ((4, 3), (), 9, 1.0, {}),
    "coupled-ascent": ((5, 3), None, 9, 1.0, {**DECAY, "maximize": True}),
    "decoupled": ((5, 3), None, 9, 1.0, {**DECAY, "decoupled_weight_decay": True}),
    "no-moments": ((5, 3), None, 9, 1.0, {"beta1": 0.0, "beta2": 0.0}),
    "fourth-power": ((5, 3), None, 9, 1.0, {"cos_power": 4, "tau": 0.9}),
    "ablated": ((5, 3), None, 9, 1.0, {"cos_power": 0, "tau": 0.0, "eps_inside_sqrt": False}),
}


def make_case(layers: SimpleNamespace, dtype: str, name: str) -> Case:
    shape, axes, t, scale, hp = SCENARIOS[name]
    param = layers.normal(shape, dtype, seed=1)
    grad = layers.normal(shape, dtype, seed=2, scale=scale)
    if t == 0:
        layer = fresh_layer(param, grad, axes)
    else:
        m, v = layers.state(param, seed=3, scale=scale)
        axes = tuple(axis % len(shape) for axis in axes) if axes else axes  # as the oracle wants them
        layer = LayerCase(param, grad, m, v, axes)
    return Case(REAL.get(dtype, dtype), (layer,), t).with_hp(**hp)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_agrees_with_the_oracle(ns: Any, layers: SimpleNamespace, scenario: str) -> None:
    dtypes = ns.dtypes
    if ns.claims.compiles:  # a shape and dtype cost seconds there: each scenario in two of them, by turns
        first = list(SCENARIOS).index(scenario)
        dtypes = [dtypes[(first + i) % len(dtypes)] for i in (0, 3)]
    for dtype in dtypes:
        case = make_case(layers, dtype, scenario)
        verdict = ns.judge(case)
        assert verdict.conforms, (dtype, verdict.parted_at, verdict.scores[verdict.parted_at])
        judged = [score.judged for score in verdict.scores.values()]
        assert judged == [case.layers[0].m.size] * 3, "every coordinate counts"


def test_the_judge_would_notice(ns: Any, layers: SimpleNamespace) -> None:
    """An lr that is wrong by one part in 10⁵ is outside the bound, so agreement is meaningful."""
    case = make_case(layers, "float32", "first")
    assert ns.judge(case.with_hp(lr=1e-3)).conforms
    other = Hyperparameters(lr=1e-3 * (1 + 1e-5))
    zero = LayerCase(np.zeros_like(case.layers[0].param), *(getattr(case.layers[0], k) for k in ("grad", "m", "v")))
    assert ns.judge(Case("float32", (zero,), 0)).conforms
    assert ns.judge(Case("float32", (zero,), 0), hp=other).parted_at == "param"


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_step_count_as_an_array(ns: Any, layers: SimpleNamespace, dtype: str) -> None:
    if dtype not in ns.dtypes:
        pytest.skip(f"{ns.name} has no {dtype}")
    for scenario in ("first", "mid-run"):
        case = make_case(layers, dtype, scenario)
        t = ns.array(np.asarray(case.t, np.int32))
        assert ns.judge(case, t=t, traced_t=True).conforms


@pytest.mark.parametrize("t_is_array", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hyperparameters_as_arrays(ns: Any, layers: SimpleNamespace, dtype: str, t_is_array: bool) -> None:
    """0-d float64 arrays, which must not widen a float32 layer."""
    if not ns.eager:
        pytest.skip("hp is static under this compiler; test_jit_with_traced_hyperparameters takes its place")
    for decoupled in (False, True):
        case = make_case(layers, dtype, "mid-run").with_hp(**DECAY, decoupled_weight_decay=decoupled)
        names = ("lr", "beta1", "beta2", "eps", "tau", "weight_decay")
        hp = Hyperparameters(**{**case.hp, **{name: ns.array(np.asarray(float(case.hp[name]))) for name in names}})
        t = ns.array(np.asarray(case.t, np.int32)) if t_is_array else case.t
        assert ns.judge(case, hp=hp, t=t, traced_t=t_is_array).conforms


def test_jit_with_traced_hyperparameters(layers: SimpleNamespace) -> None:
    jax = pytest.importorskip("jax")
    from setadam_core import init, step

    @jax.jit
    def traced(param: Any, grad: Any, lr: Any, beta1: Any) -> Any:
        return step(param, grad, init(param), Hyperparameters(lr=lr, beta1=beta1))[0]

    param, grad = layers.normal((5, 3), "float32"), layers.normal((5, 3), "float32", seed=1)
    expected, _ = step(param, grad, init(param), Hyperparameters(lr=0.1, beta1=0.5))
    got = np.asarray(traced(param, grad, 0.1, 0.5))
    # lr, β1 and their combinations rounded to float32: a few u = 6e-8 of the update, which is below 0.2.
    np.testing.assert_allclose(got, expected, rtol=2**-24, atol=0.2 * 16 * 2**-24)


def test_jax_with_32_bits(layers: SimpleNamespace) -> None:
    """JAX's default, where coefficients cannot be computed in float64."""
    jax = pytest.importorskip("jax")
    from setadam_core import init, step

    param, grad = layers.normal((5, 3), "float32"), layers.normal((5, 3), "float32", seed=1)
    expected, _ = step(param, grad, init(param), Hyperparameters())
    for function in (step, jax.jit(step, static_argnames="hp")):
        with jax.enable_x64(False):
            native = jax.device_put(param)
            got, state = function(native, jax.device_put(grad), init(native), Hyperparameters())
        assert str(got.dtype) == str(state.v.dtype) == "float32"
        # The update is below 2e-3 and its error below 32u; θ is rounded once in each.
        np.testing.assert_allclose(np.asarray(got), expected, rtol=2 * 2**-24, atol=2e-3 * 32 * 2**-24)


@st.composite
def made_cases(draw: st.DrawFn) -> Case:
    """Layers of any magnitude, with zeros, drawn as bits of the dtype."""
    dtype = draw(st.sampled_from(["float32", "float64"]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=6))
    width = int(dtype[-2:])
    peak = 10.0 ** draw(st.integers(-20, 12))
    numbers = st.floats(-1, 1, width=width, allow_subnormal=False)
    array = hnp.arrays(dtype, shape, elements=numbers | st.just(0.0))
    grad, m = draw(array) * np.dtype(dtype).type(peak), draw(array) * np.dtype(dtype).type(peak)
    v = (draw(array) * np.dtype(dtype).type(peak)) ** 2
    axes = draw(st.none() | st.lists(st.integers(0, len(shape) - 1), unique=True).map(tuple)) if shape else None
    hp = {
        "lr": draw(st.just(0.0) | st.floats(1e-12, 1)),
        "beta1": draw(st.floats(0, 0.9999)),
        "beta2": draw(st.floats(0, 0.99999)),
        "eps": 10.0 ** draw(st.integers(-30, 0)),
        "tau": draw(st.floats(0, 0.95)),
        "weight_decay": draw(st.sampled_from([0, 0.01])),
        "decoupled_weight_decay": draw(st.booleans()),
        "maximize": draw(st.booleans()),
    }
    layer = LayerCase(draw(array), *(np.asarray(x, dtype) for x in (grad, m, v)), axes)
    return Case(dtype, (layer,), draw(st.integers(0, 10**6))).with_hp(**hp)


@settings(max_examples=150)
@given(made_cases())
def test_numpy_agrees_on_made_layers(numpy_ns: Any, case: Case) -> None:
    verdict = numpy_ns.judge(case)
    assert verdict.conforms, verdict
