"""Updates of 16-bit parameters: float32, or with ``update_dtype=None`` in the dtype of the parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from setadam_jax import scale_by_set_adam, set_adam

LR = 1e-2
SIXTEEN = [jnp.bfloat16, jnp.float16]


def tree(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.uniform(0.25, 2, shape), dtype) for k, shape in (("b", 5), ("w", (3, 4)))}


def dtypes(tree):
    return {x.dtype for x in jax.tree.leaves(tree)}


def scanned(optimizer, params, grads):
    """Parameters after three steps under `lax.scan`, which requires the dtypes of the state not to change."""

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), None, length=3)[0][0]


def scanned_dtypes(optimizer, params, grads):
    """The dtypes of `scanned`, by tracing only. TypeError if they change during the scan."""
    return dtypes(jax.eval_shape(lambda *trees: scanned(optimizer, *trees), params, grads))


FACTORIES = {
    "set_adam": lambda **more: set_adam(LR, weight_decay=0.1, **more),
    "coupled": lambda **more: set_adam(LR, weight_decay=0.1, decoupled=False, **more),
    "scale_by_set_adam": scale_by_set_adam,
    "injected": lambda **more: optax.inject_hyperparams(set_adam)(LR, weight_decay=0.1, **more),
}


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("dtype", SIXTEEN)
def test_none_is_the_default_rounded_once(dtype, name):
    params, grads = tree(dtype), tree(dtype, 1)
    default, own = (FACTORIES[name](**more) for more in ({}, {"update_dtype": None}))
    state = default.init(params)
    both = jax.jit(lambda *of: (default.update(*of), own.update(*of)))
    (wide, after), (rounded, same) = both(grads, state, params)  # one state fits both
    assert dtypes(wide) == {np.dtype("float32")}
    for k, u in rounded.items():
        np.testing.assert_array_equal(u, wide[k].astype(dtype))
        assert u.dtype == dtype
    assert jax.tree.structure(after) == jax.tree.structure(same)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_parameter_decides_and_without_it_the_gradient():
    params, grads = tree(jnp.bfloat16), tree(jnp.float32, 1)
    for optimizer in (set_adam(LR, update_dtype=None), scale_by_set_adam(update_dtype=None)):
        state = optimizer.init(params)
        assert dtypes(optimizer.update(grads, state, params)[0]) == {np.dtype(jnp.bfloat16)}
        assert dtypes(optimizer.update(grads, state)[0]) == {np.dtype("float32")}
        assert dtypes(optimizer.update(params, state)[0]) == {np.dtype(jnp.bfloat16)}
    mixed = {"half": jnp.ones(3, jnp.float16), "z": jnp.ones(3, jnp.complex64), "full": jnp.ones(3)}
    updates, _ = set_adam(LR, update_dtype=None).update(mixed, set_adam(LR).init(mixed), mixed)
    assert {k: u.dtype for k, u in updates.items()} == {k: p.dtype for k, p in mixed.items()}


@pytest.mark.parametrize("factory", [lambda **x: set_adam(LR, **x), scale_by_set_adam])
@pytest.mark.parametrize("wrong", ["float32", jnp.float32, True])
def test_nothing_else_is_an_update_dtype(wrong, factory):
    with pytest.raises(ValueError, match=r'^update_dtype must be "compute" or None .*, got '):
        factory(update_dtype=wrong)


# The table of docs/jax.md.
KEEP_UPDATES = {
    "ema": lambda o: optax.chain(o, optax.ema(0.9)),
    "snapshot": lambda o: optax.chain(o, optax.snapshot("updates", lambda u: u)),
    "trace": lambda o: optax.chain(o, optax.trace(0.9)),
    "apply_every": lambda o: optax.chain(o, optax.apply_every(2)),
}
CHOOSE = {
    "apply_if_finite": lambda o: optax.apply_if_finite(o, 3),
    "conditionally_transform": lambda o: optax.conditionally_transform(o, lambda step: step >= 0),
    "conditionally_mask": lambda o: optax.conditionally_mask(o, lambda step: step >= 0),
}
WORK_WITH_BOTH = {
    "alone": lambda o: o,
    "MultiSteps": lambda o: optax.MultiSteps(o, 2),
    "masked": lambda o: optax.masked(o, {"w": True, "b": False}),
    "multi_transform": lambda o: optax.multi_transform({"set": o, "sgd": optax.sgd(LR)}, {"w": "set", "b": "sgd"}),
    "clip": lambda o: optax.chain(o, optax.clip_by_global_norm(1.0)),
    "float32 ema": lambda o: optax.chain(o, optax.ema(0.9, accumulator_dtype=jnp.float32)),
}


@pytest.mark.parametrize("name", [*KEEP_UPDATES, *CHOOSE, *WORK_WITH_BOTH])
def test_optax_under_scan_in_bfloat16(name):
    wrap = (KEEP_UPDATES | CHOOSE | WORK_WITH_BOTH)[name]
    params, grads = tree(jnp.bfloat16), tree(jnp.bfloat16, 1)
    half = {np.dtype(jnp.bfloat16)}
    assert scanned_dtypes(wrap(set_adam(LR, update_dtype=None)), params, grads) == half
    if name in WORK_WITH_BOTH:
        assert scanned_dtypes(wrap(set_adam(LR)), params, grads) == half
    else:
        with pytest.raises(TypeError, match="bfloat16"):
            scanned(wrap(set_adam(LR)), params, grads)
    if name in CHOOSE:  # the wrapper asks for the gradient's dtype
        assert scanned_dtypes(wrap(set_adam(LR)), params, tree(jnp.float32, 1)) == half
        # True conditions choose what the optimizer does alone.
        got = scanned(wrap(set_adam(LR, update_dtype=None)), params, grads)
        expected = scanned(set_adam(LR, update_dtype=None), params, grads)
        for k in params:
            np.testing.assert_array_equal(got[k], expected[k])


def test_plain_addition_keeps_the_dtype():
    """Also if promotion is forbidden, which `optax.apply_updates` of float32 updates would need."""
    params = tree(jnp.bfloat16)
    optimizer = set_adam(LR, update_dtype=None)
    with jax.numpy_dtype_promotion("strict"):
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        assert dtypes(jax.tree.map(lambda p, u: p + u, params, updates)) == {np.dtype(jnp.bfloat16)}
        assert dtypes(optax.apply_updates(params, updates)) == {np.dtype(jnp.bfloat16)}


def test_an_equinox_model_stays_bfloat16():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.Linear(4, 2, key=jax.random.key(0), dtype=jnp.bfloat16)
    own, default = set_adam(LR, update_dtype=None), set_adam(LR)
    updates, _ = own.update(model, own.init(model), model)
    new = eqx.apply_updates(model, updates)
    assert dtypes(new) == {np.dtype(jnp.bfloat16)}
    wide, _ = default.update(model, default.init(model), model)
    np.testing.assert_array_equal(new.weight, model.weight + wide.weight.astype(jnp.bfloat16))


def test_an_nnx_model_stays_bfloat16_in_either_case():
    nnx = pytest.importorskip("flax.nnx")
    for update_dtype in ("compute", None):
        model = nnx.Linear(3, 2, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, set_adam(LR, update_dtype=update_dtype), wrt=nnx.Param)
        optimizer.update(model, nnx.grad(lambda m: m(jnp.ones((4, 3))).sum())(model))
        assert model.kernel.dtype == jnp.bfloat16
