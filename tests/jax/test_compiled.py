"""JAX's own transformations of a step: jit with donation, vmap, scan, grad, checkpoint, debug_nans."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from setadam_jax import scale_by_set_adam, set_adam

LR = 1e-2
OPTIMIZER = set_adam(LR, weight_decay=0.1)


def step(params, state, grads):
    updates, state = OPTIMIZER.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@pytest.fixture(scope="module")
def start(reference):
    params = jax.tree.map(jnp.asarray, reference.tree(0))
    gradients = [jax.tree.map(jnp.asarray, reference.tree(1 + i)) for i in range(3)]
    return params, OPTIMIZER.init(params), gradients


@pytest.fixture(scope="module")
def end(start):
    params, state, gradients = start
    jitted = jax.jit(lambda *args: step(*args))  # JAX counts what it compiles for a function, whoever asked for it
    for grads in gradients:
        params, state = jitted(params, state, grads)
    assert jitted._cache_size() == 1  # a second call does not recompile
    return params, state


def assert_equal(got, expected, ulps=0):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if ulps:
            np.testing.assert_allclose(a, b, rtol=ulps * 2.0**-24, atol=ulps * 2.0**-24 * LR)
        else:
            np.testing.assert_array_equal(a, b)


def test_donated_buffers_are_reused_without_a_copy(start, end):
    params, state, gradients = jax.tree.map(jnp.copy, start)
    donating = jax.jit(step, donate_argnums=(0, 1))
    text = donating.lower(params, state, gradients[0]).compile().as_text()
    assert not re.findall(r"\bcopy(?:-start)?\(", text)
    donated = len(jax.tree.leaves((params, state)))
    aliases = re.search(r"input_output_alias=\{(.*)\}, entry", text)
    assert aliases is not None
    assert aliases[1].count("may-alias") + aliases[1].count("must-alias") == donated
    before = jax.tree.leaves((params, state))
    for grads in gradients:
        params, state = donating(params, state, grads)
    assert all(x.is_deleted() for x in before)
    assert_equal((params, state), end)


def test_vmap_over_an_ensemble(start):
    params, state, gradients = start
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
    alone = [jax.jit(step)(params, state, grads) for grads in gradients]
    together = jax.jit(jax.vmap(step, in_axes=(None, None, 0)))(params, state, stacked)
    # Reductions over one axis of two may add in another order: the step's own error, in test_step.
    for i, member in enumerate(alone):
        assert_equal(jax.tree.map(lambda x, i=i: x[i], together), member, ulps=120)


def test_scan_over_steps(start, end):
    params, state, gradients = start
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
    scanned, _ = jax.jit(lambda c, xs: jax.lax.scan(lambda c, g: (step(*c, g), None), c, xs))((params, state), stacked)
    assert_equal(scanned, end, ulps=120)


def test_gradient_through_a_step():
    """The derivative of ‖θ'‖² with respect to the gradient, against central differences in float64."""
    grads, params = jnp.linspace(-1.2, 1.5, 6), jnp.linspace(1, 2, 6)

    def loss(g, params):
        updates, _ = OPTIMIZER.update(g, OPTIMIZER.init(params), params)
        return jnp.sum(optax.apply_updates(params, updates) ** 2)

    with jax.enable_x64(True):
        g, p = (jnp.asarray(np.asarray(x, np.float64)) for x in (grads, params))
        slope, h = jax.jit(jax.grad(loss))(g, p), 1e-5
        value = jax.jit(loss)
        for i, s in enumerate(slope):
            numeric = (value(g.at[i].add(h), p) - value(g.at[i].add(-h), p)) / (2 * h)
            # h² of truncation and u/h of rounding, each times a few.
            np.testing.assert_allclose(s, numeric, rtol=1e-5, atol=1e-9)


def test_gradient_is_finite_where_the_moments_are_zero():
    def loss(g):
        updates, _ = scale_by_set_adam().update(g, scale_by_set_adam().init(g))
        return jnp.sum(updates)

    assert jnp.isfinite(jax.jit(jax.grad(loss))(jnp.zeros(6))).all()
    assert jnp.isfinite(jax.jit(jax.grad(loss))(jnp.asarray([0.0, 1, 0, 2, 0, 0]))).all()
    # (max v)² underflows: the derivative must not go by way of the scale.
    assert jnp.isfinite(jax.jit(jax.grad(loss))(jnp.asarray([0.0, 1e-11, 0, 2e-11, 0, 0]))).all()


def test_checkpointed_step_has_the_same_gradient(start):
    params, state, gradients = start

    def loss(grads, step):
        return sum(jnp.sum(p**2) for p in jax.tree.leaves(step(params, state, grads)[0]))

    plain, again = (jax.jit(jax.grad(loss), static_argnums=1)(gradients[0], f) for f in (step, jax.checkpoint(step)))
    assert_equal(again, plain, ulps=120)


def test_debug_nans_sees_none_where_there_are_none(start):
    params, state, gradients = start
    zeros = jax.tree.map(jnp.zeros_like, gradients[0])
    with jax.debug_nans(True):
        for grads in (zeros, gradients[0]):
            step(params, state, grads)
            jax.jit(step)(params, state, grads)
        with pytest.raises(FloatingPointError):
            jax.jit(step)(params, state, jax.tree.map(lambda g: g * jnp.nan, gradients[0]))
