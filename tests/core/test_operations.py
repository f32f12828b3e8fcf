"""The three operations: consequences of the paper's formulas as properties, and the identity with Adam."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from setadam_core import Hyperparameters, State, Trace, init, step, trace
from setadam_core.layers import Layer, check_layer
from setadam_core.spec import bias_correction, down_scaling, embed_epsilon

U = 2.0**-53  # unit roundoff of float64


def layer_of(x: np.ndarray) -> Layer:
    return check_layer(x, x, x, x, 0, Hyperparameters(), None)


def gamma_of(v: Any, power: float = 2.0) -> float:
    v = np.asarray(v)
    return float(down_scaling(v, layer_of(v), power).reshape(()))


def bits(x: Any) -> bytes:
    return np.ascontiguousarray(x).tobytes()


@st.composite
def second_moments(draw: st.DrawFn, least: int = -18, most: int = 18) -> np.ndarray:
    """A layer's v, with zeros. Coordinates have a magnitude each, or one in common."""
    d = draw(st.integers(1, 12))
    mantissas = draw(hnp.arrays(np.float64, d, elements=st.floats(1, 9.99)))
    common = draw(st.integers(least, most))
    exponents = draw(st.just([common] * d) | st.lists(st.integers(least, most), min_size=d, max_size=d))
    alive = draw(hnp.arrays(np.bool_, d)) if draw(st.booleans()) else np.ones(d, bool)
    return mantissas * 10.0 ** np.array(exponents) * alive


@st.composite
def traces(draw: st.DrawFn, **fixed: Any) -> tuple[Trace, Hyperparameters]:
    """A step with an arbitrary vₜ: β₂ and the gradient are drawn as well."""
    v = draw(second_moments())
    grad = draw(hnp.arrays(np.float64, v.shape, elements=st.floats(-1, 1))) * math.sqrt(float(np.max(v)))
    made = {
        "beta2": draw(st.floats(0, 0.9999)),
        "tau": draw(st.floats(0, 0.99)),
        "eps": 10.0 ** draw(st.integers(-20, 0)),
    }
    hp = Hyperparameters(**{**made, **fixed})
    state = State(grad / 2, v, draw(st.integers(0, 10**5)))
    return trace(np.ones_like(v), grad, state, hp), hp


# S


@given(second_moments())
def test_gamma_is_between_1_over_d_and_1(v: np.ndarray) -> None:
    assert (1 - (3 * v.size + 8) * U) / v.size <= gamma_of(v) <= 1  # that many roundings of γ's own


@given(second_moments(), st.sampled_from([1.0, 2.0, 3.0, 4.0]))
def test_gamma_is_the_papers_cosine(v: np.ndarray, power: float) -> None:
    d = v.size
    v = v / (np.max(v) or 1)
    norm = math.sqrt(math.fsum(x * x for x in v))
    cosine = math.fsum(v) / (math.sqrt(d) * norm) if norm else 1.0
    # γ's relative error, (3d + 8)u, goes with power/2; that of the check is below 8u for each power.
    assert gamma_of(v, power) == pytest.approx(cosine**power, rel=((3 * d + 8) * power / 2 + 8 * power) * U)


@given(st.floats(1e-300, 1e300), st.integers(1, 2000))
def test_gamma_of_a_constant_is_exactly_1(c: float, d: int) -> None:
    assert gamma_of(np.full(d, c)) == 1
    assert gamma_of(np.full((1, d), np.float32(min(max(c, 1e-44), 3e38)))) == 1


@given(second_moments())
def test_gamma_below_1_unless_constant(v: np.ndarray) -> None:
    r = v / (np.max(v) or 1)
    # 1 - γ = Var r / mean r², so a spread of 1e-6 is far above what rounding makes of it.
    assume(np.var(r) > 1e-12)
    assert gamma_of(v) < 1


@pytest.mark.parametrize("d", [1, 4, 100])
def test_gamma_of_one_live_coordinate_is_1_over_d(d: int) -> None:
    v = np.zeros(d)
    v[d // 2] = 3e-7
    assert gamma_of(v) == 1 / d


@given(st.lists(st.integers(0, 255), min_size=1, max_size=20), st.data())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gamma_is_free_of_scale(dtype: str, counts: list[int], data: st.DataObject) -> None:
    """From the smallest subnormal to just below overflow, a power of two changes no bit of γ."""
    info = np.finfo(dtype)
    base = np.array(counts, dtype)  # eight bits, exact at every scale
    exponent = data.draw(st.integers(info.minexp - info.nmant, info.maxexp - 9))
    scaled = np.ldexp(base, exponent)
    assert np.all(np.ldexp(scaled.astype(np.longdouble), -exponent) == base), "the scaling was exact"
    assert gamma_of(scaled) == gamma_of(base)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gamma_at_the_ends_of_the_range(dtype: str) -> None:
    info = np.finfo(dtype)
    for peak in (info.smallest_subnormal, info.smallest_normal, info.max):
        assert gamma_of(np.full(7, peak, dtype)) == 1
        assert gamma_of(np.array([peak, 0, 0, 0], dtype)) == 0.25


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, 4.0])
def test_all_zero_layer(layers: SimpleNamespace, power: float) -> None:
    """γ is 1, w is √ε everywhere, and the parameter does not change."""
    param = layers.normal((3, 4))
    zero = np.zeros_like(param)
    hp = Hyperparameters(cos_power=power)
    now = trace(param, zero, init(param), hp)
    assert np.all(now.gamma == 1)
    assert np.all(now.w == np.sqrt(hp.eps))
    assert bits(now.param) == bits(param)


def test_zero_layer_beside_a_live_one(layers: SimpleNamespace) -> None:
    grad = layers.normal((2, 5))
    grad[0] = 0
    now = trace(np.ones_like(grad), grad, init(grad), Hyperparameters(), layer_axes=(1,))
    assert now.gamma[0, 0] == 1 > now.gamma[1, 0]
    assert np.all(now.param[0] == 1)
    assert np.all(now.param[1] != 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_spoils_its_own_layer(layers: SimpleNamespace, bad: float) -> None:
    grad = layers.normal((2, 5))
    grad[0, 3] = bad
    with np.errstate(invalid="ignore"):
        param, _ = step(np.ones_like(grad), grad, init(grad), Hyperparameters(), layer_axes=(1,))
    assert np.all(np.isnan(param[0]))
    assert np.all(np.isfinite(param[1]))


@given(second_moments())
def test_gamma_measures_relative_spread(v: np.ndarray) -> None:
    """1/γ = 1 + (σ/μ)²."""
    assume(np.max(v) > 0)
    r = v / np.max(v)
    mean = math.fsum(r) / r.size
    variance = math.fsum((r - mean) ** 2) / r.size
    # γ's own error, and of the check: 2u for each of r, mean, their difference, its square and the sums.
    assert 1 / gamma_of(v) == pytest.approx(1 + variance / mean**2, rel=(3 * v.size + 8 + 32) * U)


@given(traces(tau=0.0, eps=1e-200, eps_inside_sqrt=False))
def test_scaling_alone_lifts_all_stepsizes_alike(made: tuple[Trace, Hyperparameters]) -> None:
    now, hp = made
    d, gamma = now.v.size, float(now.gamma[0])
    alive = now.v > 1e-200  # so that γv is no subnormal, and ε is lost beside √v
    unscaled = np.sqrt(now.v / bias_correction(hp.beta2, now.t, layer_of(now.v)))
    # √ and ÷ twice each, and the product
    np.testing.assert_allclose(now.w[alive], math.sqrt(gamma) * unscaled[alive], rtol=8 * U)
    assert 1 <= 1 / math.sqrt(gamma) <= math.sqrt(d) * (1 + (3 * d + 8) * U)


@given(traces(tau=0.0))
def test_scaling_lowers_and_narrows_w(made: tuple[Trace, Hyperparameters]) -> None:
    now, hp = made
    off = Hyperparameters(**{**hp.__dict__, "cos_power": 0})
    v_hat = now.v / bias_correction(hp.beta2, now.t, layer_of(now.v))
    unscaled = np.sqrt(v_hat + off.eps)
    assert np.all(now.w <= unscaled), "·, +, √ and division are monotone, rounded or not"
    # Each w is within 3u of itself, so a ratio of two within 6u, and two ratios within 12u.
    assert np.max(now.w) / np.min(now.w) <= np.max(unscaled) / np.min(unscaled) * (1 + 16 * U)


@given(traces())
def test_smallest_w_is_that_of_the_smallest_v(made: tuple[Trace, Hyperparameters]) -> None:
    """Bit for bit, since each operation between them is monotone and correctly rounded."""
    now, hp = made
    correction = bias_correction(hp.beta2, now.t, layer_of(now.v))
    from_v = np.sqrt(now.gamma * np.min(now.v) / correction + hp.eps)
    assert bits(now.w_min) == bits(from_v)
    assert np.all(now.w >= np.sqrt(hp.eps))


# E


@given(traces())
def test_epsilon_is_a_soft_floor(made: tuple[Trace, Hyperparameters]) -> None:
    now, hp = made
    v_hat = now.v_scaled / bias_correction(hp.beta2, now.t, layer_of(now.v))
    larger = np.maximum(np.sqrt(v_hat), math.sqrt(hp.eps))
    assert np.all(larger <= now.w), "√ and + are monotone, rounded or not"
    assert np.all(now.w <= math.sqrt(2) * larger * (1 + 8 * U))


@given(second_moments(), st.floats(1e-12, 1), st.floats(0, 1), st.integers(-20, 0))
def test_ratio_rises_with_gamma(v: np.ndarray, larger: float, share: float, exponent: int) -> None:
    hp = Hyperparameters(eps=10.0**exponent)

    def ratio(gamma: float) -> float:
        w = embed_epsilon(gamma * v, hp.eps, layer_of(v), hp)
        return float(np.max(w) / np.min(w))

    assert ratio(larger * share) <= ratio(larger) * (1 + 16 * U)  # each ratio is within 8u of itself


# T


@given(traces(cos_power=2))
def test_translating_lifts_each_stepsize_within_its_bounds(made: tuple[Trace, Hyperparameters]) -> None:
    now, hp = made
    # w̃ = w - τ min w ≥ (1-τ)w: its two roundings cost 2u of w, so 2u/(1-τ) of w̃, and 1-τ one more.
    slack = 1 + 4 * U / (1 - hp.tau)
    lift = now.w / now.w_shifted
    assert np.all(lift >= 1)
    assert np.all(lift <= slack / (1 - hp.tau))
    assert np.all(now.stepsize <= slack / ((1 - hp.tau) * math.sqrt(hp.eps)))


@given(traces())
def test_translating_widens_the_ratio_within_a_layer(made: tuple[Trace, Hyperparameters]) -> None:
    now, hp = made
    r = np.max(now.w) / np.min(now.w)
    widened = np.max(now.w_shifted) / np.min(now.w_shifted)
    slack = 16 * U / (1 - hp.tau)
    assert widened >= r * (1 - slack)
    assert widened == pytest.approx((r - hp.tau) / (1 - hp.tau), rel=slack)


@given(traces())
def test_translating_lifts_the_largest_stepsize_most(made: tuple[Trace, Hyperparameters]) -> None:
    now, hp = made
    slack = 1 + 8 * U / (1 - hp.tau)
    lift = (now.w / now.w_shifted)[np.argsort(now.w)]
    assert np.all(lift[1:] <= lift[:-1] * slack)
    assert lift[0] == pytest.approx(1 / (1 - hp.tau), rel=slack - 1)


@given(traces())
def test_translating_keeps_differences(made: tuple[Trace, Hyperparameters]) -> None:
    now, _ = made
    before, after = (x[:, None] - x[None, :] for x in (now.w, now.w_shifted))
    assert np.all(np.abs(after - before) <= 4 * U * np.max(now.w))  # two roundings of w̃, two of differences


# The whole


@given(traces())
def test_ratio_is_bounded(made: tuple[Trace, Hyperparameters]) -> None:
    now, hp = made
    v_hat = now.v_scaled / bias_correction(hp.beta2, now.t, layer_of(now.v))
    most = math.sqrt(1 + float(np.max(v_hat)) / hp.eps)
    allowed = (most - hp.tau) / (1 - hp.tau)
    assert np.max(now.w_shifted) / np.min(now.w_shifted) <= allowed * (1 + 16 * U / (1 - hp.tau))


@given(st.floats(1e-9, 1e9), hnp.arrays(np.bool_, st.integers(1, 12)), st.integers(1, 10**5), st.floats(0, 0.99))
def test_equal_moments_are_scaled_and_nothing_else(g: float, signs: np.ndarray, t: int, tau: float) -> None:
    grad = np.where(signs, g, -g)
    hp = Hyperparameters(tau=tau)
    now = trace(np.zeros_like(grad), grad, State(grad, np.full_like(grad, 3 * g * g), t), hp)
    assert now.gamma == 1
    assert len(set(now.stepsize)) == 1
    v_hat = float(now.v[0]) / bias_correction(hp.beta2, now.t, layer_of(grad))
    expected = 1 / ((1 - tau) * math.sqrt(v_hat + hp.eps))
    assert now.stepsize[0] == pytest.approx(expected, rel=8 * U / (1 - tau))


@given(second_moments(-30, -14), st.floats(0, 0.99), st.integers(0, 10**5))
def test_below_the_floor_it_is_momentum(v: np.ndarray, tau: float, t: int) -> None:
    hp = Hyperparameters(tau=tau)
    grad = np.linspace(-1, 1, v.size) * math.sqrt(float(np.max(v)))
    now = trace(np.zeros_like(v), grad, State(grad[::-1] / 2, v, t), hp)
    momentum = now.m / bias_correction(hp.beta1, now.t, layer_of(v))
    # √(γv̂+ε) lies between √ε and (1 + δ/2)√ε, and what T takes off is common.
    delta = float(np.max(now.v_scaled)) / bias_correction(hp.beta2, now.t, layer_of(v)) / hp.eps
    assert delta < 1e-2
    expected = hp.lr / ((1 - tau) * math.sqrt(hp.eps)) * momentum
    np.testing.assert_allclose(now.update, expected, rtol=(delta / 2 + 16 * U) / (1 - tau))


@given(second_moments(), st.integers(-40, 40), st.integers(0, 1000))
def test_scale_of_gradients_and_epsilon(v: np.ndarray, exponent: int, t: int) -> None:
    """Gradients times c and ε times c² give the same update; bit for bit where c is a power of two."""
    c, hp = 2.0**exponent, Hyperparameters(eps=2.0**-20)
    grad = np.linspace(-1, 1, v.size) * math.sqrt(float(np.max(v)))
    now = trace(np.zeros_like(v), grad, State(grad / 2, v, t), hp)
    scaled = Hyperparameters(eps=hp.eps * c * c)
    then = trace(np.zeros_like(v), c * grad, State(c * grad / 2, c * c * v, t), scaled)
    assert bits(then.gamma) == bits(now.gamma)
    assert bits(then.w_shifted) == bits(c * now.w_shifted)
    assert bits(then.update) == bits(now.update)


@given(traces())
def test_stepsize_is_the_reciprocal(made: tuple[Trace, Hyperparameters]) -> None:
    now, _ = made
    assert bits(now.stepsize) == bits(1 / now.w_shifted)


def test_step_is_a_part_of_trace(ns: Any, layers: SimpleNamespace) -> None:
    """Bit for bit, and with shapes as the docstring says."""
    dtypes = ("float32",) if ns.claims.compiles else ns.dtypes
    for dtype in dtypes:
        param, grad = layers.normal((4, 3), dtype), layers.normal((4, 3), dtype, seed=1)
        m, v = layers.state(param)
        axes = (1,)
        args = ns.array(param), ns.array(grad), ns.state(m, v, 6), Hyperparameters(weight_decay=0.1)
        now, (new, state) = ns.trace(*args, layer_axes=axes), ns.step(*args, layer_axes=axes)
        # A compiler may contract two programs differently; operation by operation they are the same.
        pairs = ((now.param, new), (now.m, state.m), (now.v, state.v))
        if ns.eager:
            assert all(bits(ns.numpy(a)) == bits(ns.numpy(b)) for a, b in pairs)
        assert int(now.t) == int(state.t) == 7
        layer_shape = (4, 1, 1) if dtype.startswith("complex") else (4, 1)
        for name in ("g", "m", "v", "v_scaled", "w", "w_shifted", "update", "stepsize"):
            assert tuple(getattr(now, name).shape) == m.shape
        assert tuple(now.gamma.shape) == tuple(now.w_min.shape) == layer_shape


def test_trace_is_consistent(layers: SimpleNamespace) -> None:
    """Each intermediate is computed from those before it, with maximize and coupled decay in g."""
    param, grad = layers.normal((4, 3)), layers.normal((4, 3), seed=1)
    m, v = layers.state(param)
    hp = Hyperparameters(weight_decay=0.1, maximize=True)
    now = trace(param, grad, State(m, v, 0), hp)
    assert bits(now.g) == bits(-grad + 0.1 * param)
    assert bits(now.v_scaled) == bits(now.gamma * now.v)
    assert bits(now.w_min) == bits(np.min(now.w, keepdims=True))
    assert bits(now.w_shifted) == bits(now.w - hp.tau * now.w_min)
    assert bits(now.param) == bits(param - now.update)


def test_decoupled_decay_stays_out_of_the_moments(layers: SimpleNamespace) -> None:
    param, grad = layers.normal((4, 3)), layers.normal((4, 3), seed=1)
    plain = trace(param, grad, init(param), Hyperparameters(lr=0.1))
    hp = Hyperparameters(lr=0.1, weight_decay=0.5, decoupled_weight_decay=True)
    now = trace(param, grad, init(param), hp)
    assert bits(now.m) == bits(plain.m)
    assert bits(now.update) == bits(plain.update)
    assert bits(now.param) == bits((1 - 0.1 * 0.5) * param - plain.update)


def test_lr_of_zero_moves_nothing_but_the_moments(layers: SimpleNamespace) -> None:
    param, grad = layers.normal((4, 3)), layers.normal((4, 3), seed=1)
    now = trace(param, grad, init(param), Hyperparameters(lr=0))
    assert bits(now.param) == bits(param)
    assert np.all(now.v > 0)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 10**9))
def test_bias_correction(beta: float, t: int) -> None:
    import mpmath

    with mpmath.workprec(200):
        exact = 1 - mpmath.mpf(beta) ** t
        got = bias_correction(beta, t, layer_of(np.ones(1)))
        # log β is rounded, which moves βᵗ by t|log β|u of itself: less than u of 1-βᵗ, as x/(eˣ-1) ≤ 1.
        assert abs(got - exact) <= 4 * U * exact


def test_bias_correction_is_not_formed_in_float32() -> None:
    """At t = 1 it is 1-β; the relative error of 1 - float32(β) is 1e-5 or more."""
    assert bias_correction(0.999, 1, layer_of(np.ones(1, np.float32))) == pytest.approx(1 - 0.999, rel=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_without_s_and_t_it_is_adam_with_eps_under_the_root(layers: SimpleNamespace, seed: int) -> None:
    """Against the textbook, over 50 steps of given gradients."""
    lr, beta1, beta2, eps = 0.01, 0.8, 0.99, 1e-6
    hp = Hyperparameters(lr=lr, beta1=beta1, beta2=beta2, eps=eps, tau=0, cos_power=0)
    param = theta = layers.normal((5, 4), seed=seed)
    state = init(param)
    m = v = np.zeros_like(theta)
    allowed = np.zeros_like(theta)
    for t in range(1, 51):
        grad = layers.normal((5, 4), seed=100 * seed + t, scale=1e-3)
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        update = lr * (m / (1 - beta1**t)) / np.sqrt(v / (1 - beta2**t) + eps)
        theta = theta - update
        # An update's roundings are below 16u and the corrections' below t·u/(1-β); θ's own is u in each.
        allowed = allowed + np.abs(update) * (16 + 2 * t / (1 - beta2)) * U + 2 * U * np.abs(theta)
        param, state = step(param, grad, state, hp)
        assert bits(state.m) == bits(m)
        np.testing.assert_allclose(state.v, v, rtol=4 * t * U)
        assert np.all(np.abs(param - theta) <= allowed)


def test_eps_outside_the_root_is_adams_own(layers: SimpleNamespace) -> None:
    hp = Hyperparameters(eps=1e-3, eps_inside_sqrt=False, tau=0, cos_power=0)
    param, grad = np.zeros((5, 4)), layers.normal((5, 4), scale=1e-3)
    new, _ = step(param, grad, init(param), hp)
    np.testing.assert_allclose(new, -hp.lr * grad / (np.abs(grad) + 1e-3), rtol=32 * U)
