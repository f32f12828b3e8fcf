"""JAX's strict settings: `set_adam` works under each of them under which `optax.adam` does, with the same result."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from setadam_jax import layer_statistics, set_adam

LR = 1e-2


@contextlib.contextmanager
def strict_x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield


@contextlib.contextmanager
def nans_and_infs():
    with jax.debug_nans(True), jax.debug_infs(True):
        yield


# The other tests are all under numpy_rank_promotion("raise"): see conftest.
SETTINGS = {
    "dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "dtype promotion, x64": strict_x64,
    "nans and infs": nans_and_infs,
    "tracer leaks": jax.checking_leaks,
}


def stacks(path, leaf):
    return tuple(range(1, leaf.ndim)) if leaf.ndim > 1 else None


def matrices(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


SCHEDULE = optax.linear_schedule(LR, 0.0, 10)
OPTIMIZERS = {
    "stacks": (set_adam, {"learning_rate": LR, "layer_axes": stacks}),
    "decay": (set_adam, {"learning_rate": SCHEDULE, "weight_decay": SCHEDULE, "mask": matrices}),
    "coupled": (
        set_adam,
        {"learning_rate": np.float64(LR), "tau": np.float32(0.5), "weight_decay": 0.1, "decoupled": False},
    ),
    "injected": (optax.inject_hyperparams(set_adam), {"learning_rate": LR, "weight_decay": SCHEDULE, "cos_power": 4}),
}
TREE = {"scalar": 2.0, "b": np.ones(4), "w": np.linspace(1, 2, 12).reshape(3, 4), "z": np.ones((2, 3)) * (1 + 2j)}
LARGE = {"large": np.linspace(1, 2, 2**15).reshape(2, 128, 128)}  # uses the forms of `passes`


def tree(**more):
    return {k: jnp.asarray(x, np.complex64 if np.iscomplexobj(x) else np.float32) for k, x in (TREE | more).items()}


def two_steps(name, jit=True):
    """Parameters, statistics and second moments after a step with a gradient, and one where it is zero."""
    factory, arguments = OPTIMIZERS[name]
    optimizer, params = factory(**arguments), tree(**LARGE if name == "stacks" and jit else {})
    if name == "injected":
        del params["z"]  # optax itself asks for one dtype of all parameters

    def step(carry, grads):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    def compiled(params):  # one program: most of the time is its compilation
        gradients = jax.tree.map(lambda p: jnp.stack([p, jnp.zeros_like(p)]), params)
        (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), gradients)
        return params, layer_statistics(state, params), optax.tree.get(state, "nu")

    if jit:
        return jax.jit(compiled)(params)
    carry = params, optimizer.init(params)
    for grads in (params, jax.tree.map(jnp.zeros_like, params)):
        carry, _ = step(carry, grads)
    params, state = carry
    return params, layer_statistics(state, params), optax.tree.get(state, "nu")


@functools.cache
def freely(name, jit):
    return two_steps(name, jit)


# Every other pair of a setting and an optimizer is heavy. Outside jit each operation is compiled for itself, and takes
# its time: one setting is enough.
CASES = [
    pytest.param(setting, name, True, marks=[pytest.mark.heavy] * ((i + j) % 2))
    for i, setting in enumerate(SETTINGS)
    for j, name in enumerate(OPTIMIZERS)
] + [("dtype promotion", "stacks", False)]


@pytest.mark.parametrize(("setting", "name", "jit"), CASES)
def test_a_setting_changes_nothing(setting, name, jit):
    expected = freely(name, jit)
    with SETTINGS[setting]():
        got = two_steps(name, jit)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        # With float64 schedules, two float32 steps differ by their own errors: see test_step. A deviation is
        # the difference of stepsizes, which are of size 1 here.
        np.testing.assert_allclose(a, b, rtol=240 * 2.0**-24, atol=240 * 2.0**-24 * LR + 120 * 2.0**-24)


@pytest.mark.parametrize("factory", [set_adam, optax.adam])
def test_nothing_is_transferred_by_a_compiled_step(factory):
    """Everything that a step needs is transferred with the program, as for optax.adam."""
    params, optimizer = tree(), factory(LR)
    init, update = jax.jit(optimizer.init), jax.jit(optimizer.update)
    with jax.transfer_guard("disallow"):
        update(params, init(params), params)


@pytest.mark.parametrize("zero", [False, True])
def test_derivatives_are_no_nan(zero):
    params = tree()
    grads = jax.tree.map(jnp.zeros_like, params) if zero else params
    optimizer = set_adam(LR, weight_decay=0.1)

    def loss(grads):
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return sum(jnp.sum(jnp.real(u)) for u in jax.tree.leaves(updates))

    with jax.debug_nans(True), jax.numpy_dtype_promotion("strict"):
        for slope in jax.tree.leaves(jax.jit(jax.grad(loss))(grads)):
            assert jnp.isfinite(slope).all()
