"""flax keeps arrays in boxes, which names, statistics and ``layer_axes`` ignore."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from setadam_jax import LayerStatistics, layer_statistics, load_neutral, set_adam, to_neutral

nnx = pytest.importorskip("flax.nnx")
nn = pytest.importorskip("flax.linen")

LR = 1e-2
FIELDS = ("exp_avg", "exp_avg_sq", "step")


@pytest.fixture
def trained():
    """A model, its optimizer after a step, and its gradient."""
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, set_adam(optax.linear_schedule(LR, 0.0, 9)), wrt=nnx.Param)
    grads = nnx.grad(lambda m: (m(jnp.ones((2, 3))) ** 2).sum())(model)
    optimizer.update(model, grads)
    return model, optimizer, grads


def plain(tree):
    return {"bias": tree["bias"][...], "kernel": tree["kernel"][...]}


def test_the_neutral_form_of_nnx_is_that_of_plain_arrays(trained):
    _, optimizer, grads = trained
    form = to_neutral(optimizer.opt_state)
    assert sorted(form) == [f"{name}/{field}" for name in ("bias", "kernel") for field in FIELDS]
    alone = set_adam(LR)
    _, state = alone.update(plain(grads), alone.init(plain(grads)))
    for key, x in to_neutral(state).items():
        np.testing.assert_array_equal(form[key], x)


def test_nnx_goes_on_from_a_neutral_form_as_it_would_have(trained):
    model, optimizer, grads = trained
    again_model, again = nnx.clone(trained[:2])
    fresh = jax.tree.map(jnp.zeros_like, optimizer.opt_state)
    loaded = load_neutral(fresh, to_neutral(optimizer.opt_state))
    assert jax.tree.structure(loaded) == jax.tree.structure(optimizer.opt_state)
    assert type(loaded[0].count) is type(optimizer.opt_state[0].count)
    assert loaded[0].count[...] == 1
    assert fresh[0].count[...] == 0  # load_neutral changes nothing

    optimizer.update(model, grads)
    again.opt_state = load_neutral(again.opt_state, to_neutral(again.opt_state))
    nnx.jit(lambda m, o, g: o.update(m, g))(again_model, again, grads)
    got, expected = (plain(nnx.state(m, nnx.Param)) for m in (again_model, model))
    for k, x in got.items():
        np.testing.assert_allclose(x, expected[k], rtol=2 * 2.0**-24, atol=240 * 2.0**-24 * LR)


def test_statistics_stand_where_variables_do(trained):
    model, optimizer, _ = trained
    params = nnx.state(model, nnx.Param)
    got = layer_statistics(optimizer.opt_state, params)
    assert isinstance(got["kernel"], LayerStatistics)
    alone = set_adam(LR)
    state = alone.init(plain(params))
    state = load_neutral(state, to_neutral(optimizer.opt_state))
    for k, expected in layer_statistics(state, plain(params)).items():
        np.testing.assert_array_equal(got[k], expected)
    compiled = nnx.jit(lambda o, m: layer_statistics(o.opt_state, nnx.state(m, nnx.Param)))(optimizer, model)
    np.testing.assert_allclose(compiled["bias"].gamma, got["bias"].gamma, rtol=60 * 2.0**-24)


def test_layer_axes_gets_one_path_in_init_and_update():
    paths = []

    def layer_axes(path, leaf):
        paths.append(jax.tree_util.keystr(path))
        return (1,) if leaf.ndim > 1 else None

    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, set_adam(LR, layer_axes=layer_axes), wrt=nnx.Param)
    optimizer.update(model, nnx.grad(lambda m: m(jnp.ones((2, 3))).sum())(model))
    assert paths == ["['bias']", "['kernel']"] * 2


def test_partitioned_parameters_of_linen():
    dense = nn.Dense(4, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out")))
    params = dense.init(jax.random.key(0), jnp.ones((2, 3)))["params"]
    optimizer = set_adam(LR, weight_decay=0.1)
    updates, state = optimizer.update(params, optimizer.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    form = to_neutral(state)
    assert sorted(form) == [f"{name}/{field}" for name in ("bias", "kernel") for field in FIELDS]
    loaded = load_neutral(optimizer.init(params), form)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    np.testing.assert_array_equal(loaded[0].nu["kernel"].value, state[0].nu["kernel"].value)
    assert isinstance(layer_statistics(state, params)["kernel"], LayerStatistics)
