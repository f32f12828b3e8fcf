"""Leaves that are descriptions, that have no elements, or whose names collide."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from setadam_jax import layer_statistics, load_neutral, scale_by_set_adam, set_adam, to_neutral

LR = 1e-2
DTYPES = ["float32", "bfloat16", "complex64"]


def described(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize(
    "optimizer",
    [
        set_adam(LR, mu_dtype="bfloat16", layer_axes=lambda path, leaf: (1,) if leaf.ndim > 1 else None),
        set_adam(LR, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    ],
)
def test_a_description_is_enough_for_init(optimizer):
    params = {d: jnp.ones((2, 3), d) for d in DTYPES} | {"b": jnp.ones(3)}
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    expected = described(optimizer.init(params))
    state = optimizer.init(structs)
    assert described(state) == expected
    assert described(jax.eval_shape(optimizer.init, structs)) == expected
    update = jax.jit(optimizer.update)
    updates, _ = update(params, state, params)
    fresh, _ = update(params, optimizer.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, fresh)


def test_a_description_is_enough_to_trace_an_injected_optimizer():
    """Its own `init` asks optax for the dtype of a description, which fails for `optax.adam` too."""
    params = jnp.ones((2, 3), jnp.bfloat16)
    optimizer = optax.inject_hyperparams(set_adam)(LR)
    state = jax.eval_shape(optimizer.init, jax.ShapeDtypeStruct(params.shape, params.dtype))
    assert described(state) == described(optimizer.init(params))


def test_a_description_in_float64_is_taken_as_jax_would():
    struct = jax.ShapeDtypeStruct((2, 3), np.float64)
    assert set_adam(LR).init(struct)[0].nu.dtype == jnp.float32  # as an array of float64 is, where x64 is off
    with jax.enable_x64(True):
        assert set_adam(LR).init(struct)[0].nu.dtype == np.float64
    assert scale_by_set_adam().init(jax.typeof(jnp.ones(3))).nu.shape == (3,)


def test_a_description_that_cannot_be_a_parameter():
    with pytest.raises(TypeError, match=r"^params\['w'\]: .* got int32"):
        set_adam(LR).init({"w": jax.ShapeDtypeStruct((2,), jnp.int32)})
    with pytest.raises(ValueError, match=r"^params\['w'\]: layer_axes must be"):
        set_adam(LR, layer_axes=(1,)).init({"w": jax.ShapeDtypeStruct((2,), jnp.float32)})


def test_names_that_collide_are_refused():
    params = {"a": {"b": jnp.ones(3)}, "a.b": jnp.zeros(3)}
    optimizer = set_adam(LR)
    updates, state = optimizer.update(params, optimizer.init(params), params)  # a step needs no names
    assert updates["a"]["b"].shape == (3,)
    message = r"the leaves at \['a'\]\['b'\] and \['a\.b'\] must have different names, got 'a\.b' for both"
    with pytest.raises(ValueError, match=message):
        to_neutral(state)
    form = to_neutral(optimizer.init({"a.b": params["a.b"]}))
    with pytest.raises(ValueError, match=message):
        load_neutral(optimizer.init(params), form)
    with pytest.raises(ValueError, match=r"\[1\] and \['1'\] must have different names, got '1' for both"):
        to_neutral(optimizer.init(Indexed(jnp.ones(3), jnp.ones(3))))


@jax.tree_util.register_pytree_with_keys_class
class Indexed:
    """A node with an index and a key of the same name."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def tree_flatten_with_keys(self):
        keys = jax.tree_util.SequenceKey(1), jax.tree_util.DictKey("1")
        return tuple(zip(keys, (self.x, self.y), strict=True)), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


EMPTY = {"empty": jnp.ones((0, 3)), "of empty layers": jnp.ones((3, 0)), "z": jnp.ones((0,), jnp.complex64)}


@pytest.mark.parametrize("layer_axes", [None, lambda path, leaf: (leaf.ndim - 1,)])
@pytest.mark.parametrize("jit", [False, True])
def test_leaves_without_elements(layer_axes, jit):
    params = EMPTY | {"w": jnp.linspace(1, 2, 6).reshape(2, 3)}
    optimizer = set_adam(LR, weight_decay=0.1, layer_axes=layer_axes)
    update = jax.jit(optimizer.update) if jit else optimizer.update
    with jax.debug_nans(True):
        updates, state = update(params, optimizer.init(params), params)
        got = layer_statistics(state, params, layer_axes=layer_axes)
    assert described(updates) == described(params)
    assert described(state[0].nu) == described(optimizer.init(params)[0].nu)
    assert {k: got[k] for k in EMPTY} == dict.fromkeys(EMPTY)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(got))
    alone, after = update({"w": params["w"]}, optimizer.init({"w": params["w"]}), {"w": params["w"]})
    np.testing.assert_array_equal(updates["w"], alone["w"])
    expected = layer_statistics(after, {"w": params["w"]}, layer_axes=layer_axes)
    jax.tree.map(np.testing.assert_array_equal, {"w": got["w"]}, expected)


def test_derivatives_by_leaves_without_elements_and_by_what_they_share_with_others():
    """Also with respect to ε, τ and β, on which such a leaf depends: it contributes nothing."""
    w = jnp.linspace(1, 2, 6)

    def loss(numbers, params):
        optimizer = scale_by_set_adam(**numbers)
        updates, state = optimizer.update(params, optimizer.init(params))
        return sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves((updates, state.mu, state.nu)))

    numbers = {k: jnp.float32(x) for k, x in {"b1": 0.9, "b2": 0.99, "eps": 1e-4, "tau": 0.5}.items()}
    with jax.debug_nans(True):
        by_both, by_leaves = jax.grad(loss, (0, 1))(numbers, EMPTY | {"w": w})
        alone, _ = jax.grad(loss, (0, 1))(numbers, {"w": w})
    assert described(by_leaves) == described(EMPTY | {"w": w})
    for k, x in by_both.items():
        assert x == alone[k]


def test_statistics_name_a_leaf_that_only_one_tree_has():
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    state = set_adam(LR).init(params)
    with pytest.raises(ValueError, match=r"^params must have the tree of the state: the state has a leaf at \['b'\]"):
        layer_statistics(state, {"a": params["a"]})
    with pytest.raises(ValueError, match="params has a leaf at its root, the state has none"):
        layer_statistics(state, jnp.ones(3))
