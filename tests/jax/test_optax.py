"""It works wherever `optax.adam` does: schedules, injected hyperparameters, and optax's wrappers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from setadam_jax import ScaleBySetAdamState, scale_by_set_adam, set_adam

LR = 1e-2


def train(optimizer, params, gradients):
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for grads in gradients:
        params, state = step(params, state, grads)
    return params, state


@pytest.fixture(scope="module")
def data(reference):
    params = jax.tree.map(jnp.asarray, reference.tree(0))
    return params, [jax.tree.map(jnp.asarray, reference.tree(1 + i)) for i in range(4)]


def assert_close(got, expected, ulps=120):
    """Within the error of two float32 steps (see test_step), on θ of size 1 and updates of size LR."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        u = float(jnp.finfo(a.dtype).eps) / 2
        np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=2 * u, atol=ulps * 2.0**-24 * LR)


def test_learning_rate_schedule(data):
    params, gradients = data
    schedule = optax.linear_schedule(LR, 0.0, 4)
    got, _ = train(set_adam(schedule), params, gradients)
    expected, state = params, set_adam(1.0).init(params)
    for i, grads in enumerate(gradients):
        updates, state = set_adam(float(schedule(i))).update(grads, state, expected)
        expected = optax.apply_updates(expected, updates)
    assert_close(got, expected, ulps=4 * 120)


def test_weight_decay_schedule_and_mask(data):
    params, gradients = data
    only_w = {"b": False, "w": True}
    plain, _ = train(set_adam(LR), params, gradients[:1])
    for mask in (only_w, lambda p: only_w):
        got, _ = train(set_adam(LR, weight_decay=lambda count: 0.5, mask=mask), params, gradients[:1])
        assert_close(got["b"], plain["b"])
        assert_close(got["w"], plain["w"] - LR * 0.5 * params["w"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_injected_hyperparameters_are_not_rounded(data, dtype):
    params, gradients = jax.tree.map(lambda x: x.astype(dtype), data)
    arguments = {"learning_rate": LR, "b2": 0.999, "tau": 0.25, "weight_decay": 0.1}
    injected, state = train(optax.inject_hyperparams(set_adam)(**arguments), params, gradients)
    plain, _ = train(set_adam(**arguments), params, gradients)
    numbers = {"learning_rate", "b1", "b2", "eps", "tau", "weight_decay"}
    assert set(state.hyperparams) == numbers
    assert {str(x.dtype) for x in state.hyperparams.values()} == {"float32"}
    assert state.hyperparams["b2"] == np.float32(0.999)
    # float32(β2) is not β2: 1-β2 differs by up to 3e-5 of itself, which cancels against 1-β2ᵗ but for 1e-8.
    for a, b in zip(jax.tree.leaves(injected), jax.tree.leaves(plain), strict=True):
        assert a.dtype == b.dtype == dtype
        if dtype == jnp.float32:
            np.testing.assert_allclose(a, b, rtol=2 * 2.0**-24, atol=4 * 240 * 2.0**-24 * LR)
        else:  # the same but where a value lies next to the middle between two of dtype
            assert np.mean(np.asarray(a) == np.asarray(b)) > 0.8
            np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=1.01 * float(jnp.finfo(dtype).eps))


def test_tau_and_eps_can_be_changed_and_scheduled(data):
    params, gradients = data
    factory = optax.inject_hyperparams(set_adam)
    optimizer = factory(LR, tau=0.5, eps=1e-8)
    state = optimizer.init(params)
    state.hyperparams["tau"] = jnp.float32(0.1)
    state.hyperparams["eps"] = jnp.float32(1e-2)
    got, _ = jax.jit(optimizer.update)(gradients[0], state, params)
    expected, _ = set_adam(LR, tau=0.1, eps=1e-2).update(gradients[0], set_adam(LR).init(params), params)
    assert_close(got, expected, ulps=480)

    scheduled = factory(LR, tau=optax.linear_schedule(0.0, 0.5, 2), eps=optax.constant_schedule(1e-3))
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    _, state = train(scheduled, half, [jax.tree.map(lambda g: g.astype(jnp.bfloat16), g) for g in gradients])
    assert state.hyperparams["tau"] == 0.5


def test_injection_leaves_what_is_not_a_number_alone(data):
    params, gradients = data
    arguments = {
        "mu_dtype": jnp.bfloat16,
        "layer_axes": lambda path, leaf: tuple(range(1, leaf.ndim)) if leaf.ndim > 1 else None,
        "cos_power": 4,
        "weight_decay": 0.1,
        "mask": lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree),
    }
    injected, _ = train(optax.inject_hyperparams(set_adam)(LR, **arguments), params, gradients[:1])
    plain, _ = train(set_adam(LR, **arguments), params, gradients[:1])
    assert_close(injected, plain, ulps=480)
    scaled = optax.inject_hyperparams(functools.partial(scale_by_set_adam, cos_power=4))(tau=0.25)
    assert scaled.init(params).hyperparams["tau"] == 0.25


def test_injected_without_a_decay_needs_no_params(data):
    """As with `inject_hyperparams(optax.adam)`; with a decay it needs them, as with `optax.adamw`."""
    params, gradients = data
    optimizer = optax.inject_hyperparams(set_adam)(LR, mask={"b": False, "w": True})
    state = optimizer.init(params)
    assert set(state.hyperparams) == {"learning_rate", "b1", "b2", "eps", "tau"}
    for update in (optimizer.update, jax.jit(optimizer.update)):
        got, _ = update(gradients[0], state)
        expected, _ = set_adam(LR).update(gradients[0], set_adam(LR).init(params))
        assert_close(got, expected, ulps=480)
    for factory in (set_adam, optax.adamw):
        decaying = optax.inject_hyperparams(factory)(LR, weight_decay=0.0)
        with pytest.raises(ValueError, match="params"):
            decaying.update(gradients[0], decaying.init(params))


@pytest.mark.parametrize("given", [{}, {"weight_decay": 0.0}])
@pytest.mark.parametrize("mask", [None, {"b": False, "w": True}])
@pytest.mark.parametrize("decoupled", [True, False])
def test_a_decay_may_come_later(data, given, mask, decoupled):
    params, gradients = data
    fixed = {"mask": mask, "decoupled": decoupled}
    optimizer = optax.inject_hyperparams(set_adam)(LR, **given, **fixed)
    _, state = train(optimizer, params, gradients[:1])
    state.hyperparams["weight_decay"] = jnp.float32(0.1)
    got, after = jax.jit(optimizer.update)(gradients[1], state, params)
    assert after.hyperparams["weight_decay"] == np.float32(0.1)
    plain = set_adam(LR, weight_decay=0.1, **fixed)
    expected, _ = plain.update(gradients[1], state.inner_state, params)
    assert_close(got, expected, ulps=480)


def test_partial_defaults_are_injected(data):
    params, _ = data
    decaying = optax.inject_hyperparams(functools.partial(set_adam, weight_decay=0.1))(LR)
    assert decaying.init(params).hyperparams["weight_decay"] == np.float32(0.1)


def test_a_number_set_on_16_bit_parameters(data):
    """`inject_hyperparams` rounds it to the parameters' dtype, so the error says what to do, and that works."""
    params, grads = (jax.tree.map(lambda x: x.astype(jnp.bfloat16), x) for x in (data[0], data[1][0]))
    inject = optax.inject_hyperparams(set_adam)(LR, b2=0.99)
    state = inject.init(params)
    state.hyperparams["b2"] = 0.999
    message = r"^b2 must be .*, got bfloat16; .* set jnp\.float32\(…\), or .*hyperparam_dtype=jnp\.float32"
    with pytest.raises(TypeError, match=message):
        inject.update(grads, state, params)
    expected, _ = set_adam(LR).update(grads, set_adam(LR).init(params), params)
    state.hyperparams["b2"] = jnp.float32(0.999)
    assert_close(inject.update(grads, state, params)[0], expected, ulps=480)
    wide = optax.inject_hyperparams(set_adam, hyperparam_dtype=jnp.float32)(LR, b2=0.99)
    state = wide.init(params)
    state.hyperparams["b2"] = 0.999
    assert_close(wide.update(grads, state, params)[0], expected, ulps=480)


def test_16_bit_hyperparameters_are_refused():
    with pytest.raises(TypeError, match="b2 must be a number or a float32 or float64 array, got bfloat16"):
        set_adam(LR, b2=jnp.bfloat16(0.999))


def test_masked_and_maskednode(data):
    params, gradients = data
    got, state = train(optax.masked(set_adam(LR), {"b": False, "w": True}), params, gradients[:1])
    expected, _ = train(set_adam(LR), params, gradients[:1])
    assert_close(got["w"], expected["w"])
    assert jnp.array_equal(got["b"], params["b"] + gradients[0]["b"])  # what optax does with the rest
    assert isinstance(state.inner_state[0].mu["b"], optax.MaskedNode)


@pytest.mark.parametrize("combine", [optax.partition, optax.multi_transform])
def test_partition(data, combine):
    params, gradients = data
    both = combine({"set": set_adam(LR), "sgd": optax.sgd(LR)}, {"b": "sgd", "w": "set"})
    got, _ = train(both, params, gradients[:1])
    expected, _ = train(set_adam(LR), params, gradients[:1])
    assert_close(got["w"], expected["w"])
    assert_close(got["b"], params["b"] - LR * gradients[0]["b"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_multi_steps(data, dtype):
    params, gradients = jax.tree.map(lambda x: x.astype(dtype), data)
    got, _ = train(optax.MultiSteps(set_adam(LR), 2), params, [gradients[0]] * 4)
    expected, _ = train(set_adam(LR), params, [gradients[0]] * 2)
    assert_close(got, expected, ulps=480)


def test_apply_if_finite(data):
    params, gradients = data
    broken = jax.tree.map(lambda g: g * jnp.nan, gradients[0])
    got, state = train(optax.apply_if_finite(set_adam(LR), 5), params, [gradients[0], broken, gradients[1]])
    expected, _ = train(set_adam(LR), params, gradients[:2])
    assert state.total_notfinite == 1
    assert_close(got, expected, ulps=480)


def test_apply_if_finite_with_bfloat16(data):
    """lax.cond requires both branches to have one dtype, so 16-bit gradients are widened before it."""
    params, gradients = jax.tree.map(lambda x: x.astype(jnp.bfloat16), data)
    widen = optax.stateless(lambda g, p: jax.tree.map(lambda x: x.astype(jnp.float32), g))
    optimizer = optax.chain(widen, optax.apply_if_finite(set_adam(LR), 5))
    got, _ = train(optimizer, params, gradients)
    expected, _ = train(set_adam(LR), params, gradients)
    assert_close(got, expected)


def test_apply_updates_rounds_bfloat16_once(data):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), data[0])
    grads = jax.tree.map(lambda x: x.astype(jnp.bfloat16), data[1][0])
    updates, _ = set_adam(LR).update(grads, set_adam(LR).init(params), params)
    got = optax.apply_updates(params, updates)
    for k, p in params.items():
        exact = np.asarray(p, np.float32) + np.asarray(updates[k])
        np.testing.assert_array_equal(np.asarray(got[k]), exact.astype(p.dtype))


def test_optax_tree_utilities(data):
    params, gradients = data
    _, state = train(set_adam(LR), params, gradients[:2])
    assert optax.tree.get(state, "count") == 2
    assert jnp.array_equal(optax.tree.get(state, "nu")["w"], state[0].nu["w"])
    reset = optax.tree.set(state, count=jnp.int32(7))
    assert reset[0].count == 7
    doubled = optax.tree.map_params(set_adam(LR), lambda x: 2 * x, state)
    assert jnp.array_equal(doubled[0].mu["w"], 2 * state[0].mu["w"])
    assert doubled[0].count == 2
    assert isinstance(doubled[0], ScaleBySetAdamState)


def test_clipping_before_it_in_a_chain(data):
    params, gradients = data
    got, _ = train(optax.chain(optax.clip_by_global_norm(1.0), set_adam(LR)), params, gradients[:1])
    norm = optax.tree.norm(gradients[0])
    expected, _ = train(set_adam(LR), params, [jax.tree.map(lambda g: g / norm, gradients[0])])
    assert_close(got, expected)


def test_update_without_params(data):
    params, gradients = data
    state = set_adam(LR).init(params)
    assert_close(set_adam(LR).update(gradients[0], state)[0], set_adam(LR).update(gradients[0], state, params)[0], 0)
    decaying = set_adam(LR, weight_decay=0.1)
    with pytest.raises(ValueError, match="params"):
        decaying.update(gradients[0], decaying.init(params))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"learning_rate": -0.1}, ValueError, "^learning_rate must be finite and ≥ 0, got -0.1"),
        ({"b1": 1.0}, ValueError, r"^b1 must be in \[0, 1\), got 1.0"),
        ({"b2": "x"}, TypeError, "^b2 must be a real number, got 'x'"),
        ({"eps": 0.0}, ValueError, "^eps must be finite and > 0, got 0.0"),
        ({"tau": 1.0}, ValueError, r"^tau must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, ValueError, "^weight_decay must be finite and ≥ 0, got -1.0"),
        ({"cos_power": -1}, ValueError, "^cos_power must be finite and ≥ 0, got -1"),
        ({"decoupled": 1}, TypeError, "^decoupled must be True or False, got 1"),
        ({"eps_inside_sqrt": None}, TypeError, "^eps_inside_sqrt must be True or False, got None"),
    ],
)
def test_wrong_hyperparameters_are_named(wrong, error, message):
    with pytest.raises(error, match=message):
        set_adam(**({"learning_rate": LR} | wrong))
