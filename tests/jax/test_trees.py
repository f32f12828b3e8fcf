"""Pytrees of every kind, layers stacked in one array, and errors that name a leaf's path."""

from typing import NamedTuple

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setadam_jax import ScaleBySetAdamState, scale_by_set_adam, set_adam

LR = 1e-2


class Layer(NamedTuple):
    kernel: object
    bias: object


def update(optimizer, params, grads):
    return jax.jit(optimizer.update)(grads, optimizer.init(params), params)


def test_trees_of_every_kind_give_what_their_leaves_give(reference):
    params, grads = reference.tree(0), reference.tree(1)
    expected, _ = update(set_adam(LR), params, grads)
    wraps = (
        lambda t: Layer(t["w"], t["b"]),
        lambda t: [t["w"], {"inner": (t["b"],)}],
        lambda t: {"w": t["w"], "none": None, "b": t["b"], "hidden": optax.MaskedNode(), "empty": {}},
    )
    for wrap in wraps:
        got, state = update(set_adam(LR), wrap(params), wrap(grads))
        assert jax.tree.structure(got) == jax.tree.structure(wrap(grads))
        assert jax.tree.structure(state[0].nu) == jax.tree.structure(got)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wrap(expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=120 * 2.0**-24)
    assert update(set_adam(LR), {}, {})[0] == {}


def test_a_leaf_without_elements_and_one_without_axes():
    params = {"empty": jnp.ones((0, 3)), "scalar": jnp.float32(2.0)}
    updates, _ = update(set_adam(LR), params, params)
    assert updates["empty"].shape == (0, 3)
    # d = 1: γ = 1, w = √(v̂ + ε), w̃ = w/2, m̂ = g.
    np.testing.assert_allclose(updates["scalar"], -LR * 2, rtol=1e-6)


def test_flax_nnx_module():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, set_adam(LR), wrt=nnx.Param)
    kernel, x = jnp.array(model.kernel[...]), jnp.ones((4, 3))

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.mean((m(x) - 1) ** 2))(model)
        optimizer.update(model, grads)
        return grads

    grads = step(model, optimizer)
    expected, _ = update(set_adam(LR), kernel, grads["kernel"][...])
    np.testing.assert_allclose(model.kernel[...], kernel + expected, rtol=1e-6, atol=1e-8)


def test_equinox_module():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))  # its activation is a leaf, and no array
    optimizer = set_adam(LR, weight_decay=0.1)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    x = jnp.ones((4, 3))

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(lambda m: jnp.mean((jax.vmap(m)(x) - 1) ** 2))(model)
        updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, grads

    new, state, grads = step(model, state)
    old, grad = model.layers[0].weight, grads.layers[0].weight
    expected, _ = update(optimizer, old, grad)
    np.testing.assert_allclose(new.layers[0].weight, old + expected, rtol=1e-6, atol=1e-8)
    assert state[0].count == 1


def axes_by_path(path, leaf):
    return (1, 2) if path[0].key == "stack" else None


@pytest.mark.parametrize("layer_axes", [(1, 2), (-1, -2), axes_by_path])
def test_a_stack_equals_its_unrolled_twin(layer_axes, reference):
    shapes = {f"layer{i}": (3, 4) for i in range(3)}
    unrolled, grads = (reference.tree(seed, shapes) for seed in (0, 1))
    grads["layer1"] *= np.float32(1e-3)  # so that one γ or minimum for all would show
    stack = [{"stack": np.stack(list(tree.values()))} for tree in (unrolled, grads)]
    if callable(layer_axes):
        for tree in (*stack, unrolled, grads):
            tree["plain"] = np.linspace(1, 2, 6, dtype=np.float32)
    expected, _ = update(set_adam(LR), unrolled, grads)
    got, _ = update(set_adam(LR, layer_axes=layer_axes), *stack)
    for i in range(3):
        np.testing.assert_allclose(got["stack"][i], expected[f"layer{i}"], rtol=120 * 2.0**-24)
    as_one_layer, _ = update(set_adam(LR), *stack)
    assert np.max(np.abs(as_one_layer["stack"] / got["stack"] - 1)) > 0.1
    if callable(layer_axes):
        np.testing.assert_allclose(got["plain"], expected["plain"], rtol=120 * 2.0**-24)


_stacked = jax.jit(scale_by_set_adam(layer_axes=(1,)).update)
_alone = jax.jit(scale_by_set_adam().update)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-(2.0**50), 2.0**50, width=32, allow_subnormal=False)))
def test_stacked_layers_do_not_see_each_other(grads):
    got, _ = _stacked(grads, scale_by_set_adam().init(grads))
    for row, g in zip(got, grads, strict=True):
        expected, _ = _alone(g, scale_by_set_adam().init(g))
        np.testing.assert_allclose(row, expected, rtol=120 * 2.0**-24, atol=1e-30)
        assert np.all(np.sign(row) == np.sign(np.where(np.abs(row) > 0, g, 0)))


def test_a_second_leaf_changes_nothing(reference):
    one = {"w": reference.tree(1)["w"]}
    two = one | {"zeros": np.zeros((3, 4), np.float32), "huge": np.full((3, 4), 1e12, np.float32)}
    a, b = (update(set_adam(LR), tree, tree)[0]["w"] for tree in (one, two))
    np.testing.assert_allclose(a, b, rtol=120 * 2.0**-24)


@pytest.mark.parametrize("trace", [False, True])
def test_errors_name_the_path(trace):
    optimizer = set_adam(LR)
    good = {"net": [jnp.ones((3, 4)), jnp.ones(4)]}
    state = optimizer.init(good)

    def call(grads, params=None, optimizer=optimizer):
        if trace:
            return jax.eval_shape(optimizer.update, grads, state, params)
        return optimizer.update(grads, state, params)

    def tree(kernel, **more):
        return {"net": [kernel, jnp.ones(4)]} | more

    with pytest.raises(TypeError, match=r"^params\['net'\]\[0\]: .* got int32"):
        optimizer.init(tree(jnp.ones((3, 4), jnp.int32)))
    with pytest.raises(TypeError, match=r"^updates\['net'\]\[0\]: .* got int32"):
        call(tree(jnp.ones((3, 4), jnp.int32)))
    with pytest.raises(ValueError, match=r"^updates\['net'\]\[0\] must have the shape .*\(3, 4\), got \(4, 3\)"):
        call(tree(jnp.ones((4, 3))), good)
    with pytest.raises(ValueError, match=r"^updates\['net'\]\[0\]: state.m must have shape \(4, 3\) "):
        call(tree(jnp.ones((4, 3))))
    with pytest.raises(ValueError, match=r"updates has a leaf at \['extra'\], the state has none"):
        call(tree(jnp.ones((3, 4)), extra=jnp.ones(2)))
    with pytest.raises(ValueError, match=r"the state has a leaf at \['net'\]\[0\], updates has none"):
        call(tree(None))
    with pytest.raises(ValueError, match=r"params has a leaf at \['extra'\], updates has none"):
        call(good, good | {"extra": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"^updates must have the tree of the state, .*, got "):
        call({"net": tuple(good["net"])})
    with pytest.raises(ValueError, match=r"^updates\['net'\]\[1\]: layer_axes must be .* got \(1, 2\)"):
        call(good, optimizer=set_adam(LR, layer_axes=lambda path, leaf: (1, 2) if leaf.ndim == 1 else None))
    with pytest.raises(ValueError, match=r"^updates\['net'\]\[0\]: eps must be at least 1.175e-38"):
        call(good, optimizer=set_adam(LR, eps=1e-40))


def test_wrong_layer_axes_are_found_by_init():
    with pytest.raises(ValueError, match=r"^params\['b'\]: layer_axes must be None or distinct axes"):
        set_adam(LR, layer_axes=(1, 2)).init({"b": jnp.ones(3)})


def test_the_state_is_a_named_tuple(reference):
    state = scale_by_set_adam().init(reference.tree(0))
    assert ScaleBySetAdamState._fields == ("count", "mu", "nu")
    assert state.count.dtype == jnp.int32
    assert isinstance(state, ScaleBySetAdamState)
