"""The step itself is the specification's, in every dtype, form and corner case.

Tolerances. With gradients of size 1 one float32 step errs by at most, in units of u: m 6; v 8; γ 3H+8 with
H(12) = 11, which w takes half of (its root); with v's own error, the coefficients (8), division and
products (4) the update q is within 60 u|q|, and θ within u|θ| + 60 u|q|. N steps take at most N times
that here, as no operation amplifies an earlier error: |q| ≤ 2 η after bias correction.
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from setadam_jax import ScaleBySetAdamState, scale_by_set_adam, set_adam

LR = 1e-2
STEPS = 4


def train(optimizer, params, gradients):
    """θ and the whole state after one jitted step for each tree of gradients."""
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for grads in gradients:
        params, state = step(params, state, jax.tree.map(jnp.asarray, grads))
    return params, state


def adam_state(state):
    return next(
        x
        for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, ScaleBySetAdamState))
        if isinstance(x, ScaleBySetAdamState)
    )


OPTIONS = {
    "default": ({}, {}),
    "all four": (
        {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "tau": 0.75},
        {"beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "tau": 0.75},
    ),
    "ablations": (
        {"cos_power": 4, "eps_inside_sqrt": False, "tau": 0.0},
        {"cos_power": 4, "eps_inside_sqrt": False, "tau": 0.0},
    ),
    "decoupled": ({"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "coupled": ({"weight_decay": 0.1, "decoupled": False}, {"weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_matches_the_specification(name, reference, assert_close):
    ours, spec = OPTIONS[name]
    params, gradients = reference.tree(0), [reference.tree(1 + i) for i in range(STEPS)]
    got, state = train(set_adam(LR, **ours), params, gradients)
    theta, m, v = reference.run(params, gradients, lr=LR, **spec)
    assert_close(got, theta, ulps=2 * STEPS, scale=60 * 2 * LR)
    assert_close(adam_state(state).mu, m, ulps=6 * STEPS, scale=2)
    assert_close(adam_state(state).nu, v, ulps=8 * STEPS)
    assert adam_state(state).count == STEPS


def test_float64_where_x64_is_on(reference, assert_close):
    params = reference.tree(0, dtype=np.float64)
    gradients = [reference.tree(1 + i, dtype=np.float64) for i in range(STEPS)]
    with jax.enable_x64(True):
        got, state = train(set_adam(LR), params, gradients)
        theta, _, v = reference.run(params, gradients, lr=LR)
        assert got["w"].dtype == state[0].nu["w"].dtype == np.float64
        assert state[0].count.dtype == np.int32
        # The reference is float64 too: both err.
        assert_close(got, theta, ulps=4 * STEPS, scale=120 * 2 * LR, dtype=np.float64)
        assert_close(state[0].nu, v, ulps=16 * STEPS, dtype=np.float64)


def test_x64_does_not_widen_float32(reference):
    params, gradients = reference.tree(0), [reference.tree(1)]
    with jax.enable_x64(True):
        for optimizer in (
            set_adam(LR, weight_decay=0.1),
            optax.inject_hyperparams(set_adam)(LR, weight_decay=0.1),
        ):
            grads = jax.tree.map(jnp.asarray, gradients[0])
            updates, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
            moments = adam_state(state)
            assert {x.dtype for x in jax.tree.leaves((updates, moments.mu, moments.nu))} == {np.dtype("float32")}


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("decoupled", [True, False])
def test_16_bit_parameters_are_rounded_once(dtype, decoupled, reference, assert_close):
    params, grads = reference.tree(0, dtype=dtype), reference.tree(1, dtype=dtype)
    optimizer = set_adam(LR, weight_decay=0.1, decoupled=decoupled)
    got, state = train(optimizer, params, [grads])
    assert {x.dtype for x in jax.tree.leaves(got)} == {np.dtype(dtype)}
    assert {x.dtype for x in jax.tree.leaves((adam_state(state).mu, adam_state(state).nu))} == {np.dtype("float32")}
    theta, _, v = reference.run(params, [grads], lr=LR, weight_decay=0.1, decoupled_weight_decay=decoupled)
    # Half an ulp of the 16-bit θ, and what float32 adds to that: 2⁻¹³ of it or less.
    u = float(ml_dtypes.finfo(dtype).eps) / 2
    for k, expected in theta.items():
        assert np.all(np.abs(np.float64(got[k]) - expected) <= u * (1 + 2.0**-10) * np.abs(expected))
    assert_close(adam_state(state).nu, v, ulps=8)


def test_updates_of_16_bit_gradients_are_float32(reference):
    grads = jax.tree.map(jnp.asarray, reference.tree(1, dtype=ml_dtypes.bfloat16))
    optimizer = scale_by_set_adam()
    updates, _ = optimizer.update(grads, optimizer.init(grads))
    assert {u.dtype for u in updates.values()} == {np.dtype("float32")}
    wide = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    same, _ = optimizer.update(wide, optimizer.init(grads))
    assert all(jnp.array_equal(updates[k], same[k]) for k in updates)


def test_zero_gradients_are_no_nan():
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        params = {"w": jnp.ones((3, 4), dtype)}
        got, state = train(set_adam(LR), params, [jax.tree.map(jnp.zeros_like, params)] * 2)
        assert jnp.array_equal(got["w"], params["w"])
        assert not adam_state(state).nu["w"].any()


def test_complex_is_two_reals(reference):
    pair = reference.tree(0, {"z": (4, 2)})["z"], reference.tree(1, {"z": (4, 2)})["z"]
    z, dz = (x[..., 0] + 1j * x[..., 1] for x in pair)
    as_complex, state = train(set_adam(LR, weight_decay=0.1), {"z": z}, [{"z": dz}] * 2)
    as_real, _ = train(set_adam(LR, weight_decay=0.1), {"z": pair[0]}, [{"z": pair[1]}] * 2)
    assert as_complex["z"].dtype == np.complex64
    assert state[0].nu["z"].shape == (4, 2)
    np.testing.assert_array_max_ulp(
        np.asarray(as_complex["z"]).view(np.float32).reshape(4, 2), np.asarray(as_real["z"]), 1
    )


def test_mu_dtype_is_the_first_moment_alone(reference):
    params, grads = reference.tree(0), reference.tree(1)
    _, state = train(set_adam(LR, mu_dtype=jnp.bfloat16), params, [grads])
    assert {x.dtype for x in state[0].mu.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert {x.dtype for x in state[0].nu.values()} == {np.dtype("float32")}
    # The step itself is computed before the moment is rounded: the first is the same.
    rounded, _ = train(set_adam(LR, mu_dtype="bfloat16"), params, [grads])
    exact, _ = train(set_adam(LR), params, [grads])
    for k in exact:
        np.testing.assert_array_max_ulp(np.asarray(rounded[k]), np.asarray(exact[k]), 1)


def test_equals_adam_with_both_operations_off(reference, assert_close):
    """Over 100 steps. Each errs by 10 u η or so an update (optax's own float32 1 - βᵗ, up to 3e-5 at t = 1,
    is why this is float64), and θ by u|θ|."""
    with jax.enable_x64(True):
        params = reference.tree(0, dtype=np.float64)
        gradients = [reference.tree(i, dtype=np.float64) for i in range(100)]
        ours, _ = train(set_adam(LR, eps=1e-4, cos_power=0, tau=0), params, gradients)
        adam, _ = train(optax.adam(LR, eps=0.0, eps_root=1e-4), params, gradients)
        # optax forms 1 - β2ᵗ by subtraction: relative error u/(1-β2) = 1000 u at t = 1, half of it in
        # the root, falling as 1/t: 500 (1 + 1/2 + … + 1/100) < 2600 u of η in all.
        assert_close(ours, adam, ulps=100 * 2, scale=2 * LR * (100 * 20 + 2600) / 200, dtype=np.float64)


@pytest.mark.parametrize("t", [1, 1000, 10**9])
def test_bias_correction_in_float32(t):
    """m and v that one step leaves as g and g² give q = 1/√(1 + ε) whatever t is, if the moments were
    t steps of one gradient: m = (1-β1ᵗ) g, v = (1-β2ᵗ) g²."""
    optimizer = scale_by_set_adam(tau=0.0)
    before1, before2 = (-np.expm1((t - 1) * np.log(beta)) for beta in (0.9, 0.999))
    state = ScaleBySetAdamState(jnp.int32(t - 1), jnp.full(4, before1, jnp.float32), jnp.full(4, before2, jnp.float32))
    updates, state = jax.jit(optimizer.update)(jnp.ones(4), state)
    assert state.count == t
    # u each from m, 1-β1ᵗ (2, expm1 and its argument), half of v and 1-β2ᵗ, root, division: below 10 u.
    np.testing.assert_allclose(updates, 1.0, rtol=10 * 2.0**-24)


def test_count_saturates():
    optimizer, largest = scale_by_set_adam(), np.iinfo(np.int32).max
    state = optimizer.init(jnp.ones(4))._replace(count=jnp.int32(largest - 1))
    for _ in range(3):
        updates, state = jax.jit(optimizer.update)(jnp.ones(4), state)
        assert state.count == largest
        assert jnp.isfinite(updates).all()


def test_eager_and_jitted_agree(reference, assert_close):
    params, grads = reference.tree(0), reference.tree(1)
    optimizer = set_adam(LR)
    eager, _ = optimizer.update(grads, optimizer.init(params), params)
    jitted, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    assert_close(eager, jitted, ulps=2 * 60)


@pytest.mark.parametrize("exponent", [-40, -20, 20, 40])
def test_gamma_is_scale_free(exponent, reference):
    """g → 2ᵏ g with ε → 4ᵏ ε only rescales the update: every operation scales exactly. Once ε is
    negligible the update does not change at all."""
    grads = reference.tree(1)
    scaled = jax.tree.map(lambda g: np.ldexp(g, exponent), grads)
    small, large = (scale_by_set_adam(eps=1e-8 * 4.0**k) for k in (0, exponent))
    a, _ = jax.jit(small.update)(grads, small.init(grads))
    b, _ = jax.jit(large.update)(scaled, large.init(grads))
    for k in grads:
        np.testing.assert_array_max_ulp(np.asarray(a[k]), np.asarray(b[k]), 2)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("shape", [(5000,), (3, 5000)])
def test_a_nan_spreads_to_its_layer_without_down_scaling(jitted, shape):
    """XLA's minimum on a CPU skips NaN from 4,096 coordinates up; only the minimum carries it if γ is not computed."""
    grads = jnp.ones(shape).at[..., 7].set(jnp.nan) if len(shape) == 1 else jnp.ones(shape).at[1, 7].set(jnp.nan)
    optimizer = scale_by_set_adam(cos_power=0, layer_axes=(-1,))
    update = jax.jit(optimizer.update) if jitted else optimizer.update
    updates, _ = update(grads, optimizer.init(jnp.ones(shape)))
    nan = np.isnan(np.asarray(updates)).reshape(-1, 5000)
    expected = [True] if len(shape) == 1 else [False, True, False]
    np.testing.assert_array_equal(nan, np.repeat(np.array(expected)[:, None], 5000, axis=1))
