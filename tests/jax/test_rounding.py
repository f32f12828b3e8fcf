"""Stochastic rounding in `set_adam`: the bits of the specification, or an error where it cannot have them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from setadam_core import Hyperparameters, Rounding, init, step
from setadam_jax import set_adam

SEED = 7


def tree(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes, dtypes = ((5, 7), (), (33,)), (jnp.bfloat16, jnp.float32, jnp.float16)
    named = zip("abc", keys, shapes, dtypes, strict=True)
    return {name: jax.random.normal(key, shape).astype(dtype) for name, key, shape, dtype in named}


def after(optimizer, steps=3, compiled=jax.jit):
    @compiled
    def one(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = tree(0)
    state = optimizer.init(params)
    for t in range(steps):
        params, state = one(params, state, tree(1 + t))
    return params


@pytest.mark.parametrize("compiled", [jax.jit, lambda f: f])
def test_the_bits_are_those_of_the_specification(compiled):
    """Each leaf has its index; a layer that is not rounded has one, too."""
    params = after(set_adam(0.01, stochastic_rounding=SEED), compiled=compiled)
    for layer, (name, theta) in enumerate(tree(0).items()):
        theta = np.asarray(theta)
        state = init(theta)
        for t in range(3):
            rounding = Rounding(SEED, layer) if theta.dtype != np.float32 else None
            theta, state = step(
                theta, np.asarray(tree(1 + t)[name]), state, Hyperparameters(lr=0.01), rounding=rounding
            )
        got = np.asarray(params[name])
        assert got.dtype == theta.dtype
        if theta.dtype == np.float32:
            # In each step θ, below 4, is rounded once, and an update of up to 0.02 some 20 times, by both.
            np.testing.assert_allclose(got, theta, rtol=0, atol=3 * 2 * (2.0**-23 + 20 * 2.0**-24 * 0.02))
        else:  # an ulp of float32 in which JAX differs decides for a number in some 2¹³
            assert np.count_nonzero(got != theta) <= 1


def test_small_updates_are_not_lost():
    """A step of 1e-4 is below half the distance of bfloat16 numbers at 1; a hundred of them are 1e-2 on average."""

    def trained(**options):
        params = jnp.ones(4096, jnp.bfloat16)
        optimizer = set_adam(1e-4, cos_power=0, tau=0, **options)

        def one(_, carry):
            params, state = carry
            updates, state = optimizer.update(jnp.ones_like(params), state, params)
            return optax.apply_updates(params, updates), state

        return np.asarray(jax.lax.fori_loop(0, 100, one, (params, optimizer.init(params)))[0], np.float64).mean()

    assert trained() == 1
    # A hundred draws of 0 or 2⁻⁸, the chance of which is p = 1e-4·2⁸ = 0.026. So the mean of 4,096 coordinates has the
    # standard deviation 2⁻⁸ √(100 p(1 - p)/4096) = 1e-4, and is off by six of them for one seed in 10⁸.
    assert trained(stochastic_rounding=True) == pytest.approx(1 - 1e-2, abs=6e-4)


def test_under_inject_hyperparams():
    plain = after(set_adam(0.01, stochastic_rounding=SEED))
    injected = after(optax.inject_hyperparams(set_adam)(0.01, stochastic_rounding=SEED))
    assert all(jnp.array_equal(x, injected[name]) for name, x in plain.items())


@pytest.mark.parametrize("x64", [False, True])
def test_under_strict_promotion(x64):
    """`optax.apply_updates` adds float32 to bfloat16, which is not strict, so the update alone is."""
    plain = after(set_adam(0.01, stochastic_rounding=SEED), steps=1)
    optimizer, params, grads = set_adam(0.01, stochastic_rounding=SEED), tree(0), tree(1)
    state = optimizer.init(params)
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        updates, _ = jax.jit(optimizer.update)(grads, state, params)
    new = optax.apply_updates(params, updates)
    assert all(jnp.count_nonzero(new[name] != plain[name]) <= 1 for name in "ac")  # as above


def test_the_seed_matters_and_true_is_0():
    one, other, true = (after(set_adam(0.01, stochastic_rounding=seed))["a"] for seed in (0, 1, True))
    assert not jnp.array_equal(one, other)
    assert jnp.array_equal(one, true)


def test_what_is_infinite_stays_so():
    params = jnp.array([jnp.inf, -jnp.inf, 65504, 1], jnp.float16)
    optimizer = set_adam(0.1, stochastic_rounding=SEED)
    updates, _ = optimizer.update(jnp.ones_like(params), optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    assert after[0] == jnp.inf
    assert after[1] == -jnp.inf
    assert jnp.isfinite(after[2:]).all()


def test_derivatives_leave_the_rounding_out():
    params = grads = jnp.ones(4, jnp.bfloat16)

    def after(lr, **options):
        optimizer = set_adam(lr, **options)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates).astype(jnp.float32).sum()

    assert jax.grad(after)(0.01) == jax.grad(lambda lr: after(lr, stochastic_rounding=SEED))(0.01) != 0


def test_update_needs_params():
    optimizer = set_adam(0.01, stochastic_rounding=SEED)
    with pytest.raises(ValueError, match="update needs params with stochastic_rounding"):
        optimizer.update(tree(1), optimizer.init(tree(0)))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"stochastic_rounding": -1}, ValueError, "a seed in"),
        ({"stochastic_rounding": 0.5}, TypeError, "True, False or a seed"),
        ({"stochastic_rounding": 1, "update_dtype": None}, ValueError, "must be False with update_dtype=None, got 1"),
        ({"stochastic_rounding": 1, "axis_name": "rows"}, ValueError, "must be False with axis_name, got 1"),
    ],
)
def test_what_cannot_be_meant_is_an_error(options, error, words):
    with pytest.raises(error, match=words):
        set_adam(0.01, **options)


def test_inside_shard_map_it_is_refused():
    optimizer = set_adam(0.01, stochastic_rounding=True)
    params = jnp.ones(4, jnp.bfloat16)
    state = optimizer.init(params)
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(AxisType.Auto,))

    def one(params):
        return optimizer.update(params, state, params)[0]

    mapped = jax.shard_map(one, mesh=mesh, in_specs=PartitionSpec("rows"), out_specs=PartitionSpec("rows"))
    with pytest.raises(ValueError, match=r"must be False inside jax\.shard_map"):
        mapped(params)
