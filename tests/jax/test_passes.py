"""The forms of `passes` for large leaves and for small ones of one size: the same step, without arrays in between."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from setadam_jax import passes, scale_by_set_adam, set_adam
from setadam_jax.passes import is_large

LR = 1e-2
# Leaves whose first axis, whose last axis, and of which no axis can be split in groups; one for layer_axes;
# and two small ones of one size.
SHAPES = {
    "first": (256, 131),
    "last": (33, 1008),
    "none": (183, 181),
    "stack": (2, 128, 130),
    "small": (5,),
    "small 2": (5,),
}


def layer_axes(path, leaf):
    return (1, 2) if path[0].key == "stack" else None


@pytest.fixture(scope="module")
def data(reference):
    return reference.tree(0, SHAPES), reference.tree(1, SHAPES)


def step(optimizer, params, grads):
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    return optax.apply_updates(params, updates), state, updates


def test_large_leaves_take_the_step_of_the_specification(data, reference, assert_close):
    params, grads = data
    assert all(is_large(x) == (not k.startswith("small")) for k, x in params.items())
    optimizer = set_adam(LR, layer_axes=layer_axes)
    theta, _, v = reference.run(params, [grads], lambda k: (1, 2) if k == "stack" else None, lr=LR)
    eager = {"first"}  # enough, as each operation is compiled for itself
    for run, keys in ((jax.jit(step, static_argnums=0), SHAPES.keys()), (step, eager)):
        got, state, _ = run(optimizer, *({k: jnp.asarray(x[k]) for k in keys} for x in data))
        # As in test_step, but with H(d) = 16 + 8·16 of docs/bound.md in γ, which w takes half of: 260 u|q|, |q| < 4 LR.
        assert_close(got, {k: theta[k] for k in got}, ulps=2, scale=260 * 4 * LR / 2)
        assert_close(state[0].nu, {k: v[k] for k in got}, ulps=8)


def test_moments_come_through_the_order_of_leaves_unchanged(data):
    """`in_turn` multiplies by 1: the bits of a leaf do not depend on the other leaves or their order."""
    update = jax.jit(scale_by_set_adam(layer_axes=layer_axes).update)
    start = scale_by_set_adam().init(data[0])
    _, state = update(data[1], start)
    for k in ("last", "stack"):
        g = data[1][k]
        _, alone = update({k: g}, scale_by_set_adam().init({k: g}))
        assert jnp.array_equal(state.nu[k], alone.nu[k])
        assert jnp.array_equal(state.mu[k], alone.mu[k])


def test_parts_of_a_large_leaf_give_its_sums(monkeypatch, data):
    """A leaf of several parts, 8 of 16 groups of rows here, has the γ and min v of the whole."""
    params, grads = ({k: x[k] for k in ("first", "last")} for x in data)
    whole, _, _ = jax.jit(step, static_argnums=0)(set_adam(LR), params, grads)
    monkeypatch.setattr(passes, "_PART", 2**12)
    divided = jax.jit(lambda *args: step(*args), static_argnums=0).lower(set_adam(LR), params, grads)
    assert divided.as_text().count("stablehlo.while") == 2  # on the fixed scale and on its own
    got, _, _ = divided.compile()(params, grads)
    for k in got:
        np.testing.assert_allclose(got[k], whole[k], rtol=2.0**-23, atol=LR * 2.0**-20)


@pytest.mark.parametrize("exponent", [-49, -40, -31, 11, 14, 60])
def test_gamma_of_large_leaves_is_scale_free(exponent, data):
    """As for small ones in test_step: each operation scales exactly by a power of two, the fixed one or the leaf's own.
    Of these scales, the fixed one is good for -31 and 11.
    """
    grads = data[1]
    scaled = jax.tree.map(lambda g: np.ldexp(g, exponent), grads)
    small, large = (scale_by_set_adam(eps=1e-8 * 4.0**k, layer_axes=layer_axes) for k in (0, exponent))
    a, _ = jax.jit(small.update)(grads, small.init(grads))
    b, _ = jax.jit(large.update)(scaled, large.init(grads))
    for k in grads:
        np.testing.assert_array_max_ulp(np.asarray(a[k]), np.asarray(b[k]), 2)


@pytest.mark.parametrize("name", ["first", "small"])
def test_a_nan_stays_in_its_leaf(name, data):
    spoiled = data[1][name].copy()
    spoiled.flat[0] = np.nan
    grads = data[1] | {name: spoiled}
    update = jax.jit(scale_by_set_adam().update)
    clean, _ = update(data[1], scale_by_set_adam().init(data[0]))
    got, _ = update(grads, scale_by_set_adam().init(data[0]))
    assert jnp.isnan(got[name]).all()
    for k in SHAPES.keys() - {name}:
        assert jnp.array_equal(got[k], clean[k])


def compiled(params):
    optimizer = set_adam(LR)

    def donated(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(donated, donate_argnums=(0, 1)).lower(params, optimizer.init(params), params).compile()


STORED_BEFORE = pytest.mark.xfail(
    jax.__version_info__ < (0, 10), reason="XLA of JAX 0.8 and 0.9 stores temporaries of a leaf that it does not divide"
)


@pytest.mark.parametrize("shape", [(512, 256), pytest.param((513, 255), marks=STORED_BEFORE)])
def test_no_array_is_stored_in_between(shape):
    """r = v/max v, or w, would be a temporary as large as the leaf, which is written and read again."""
    params = {"w": jnp.ones(shape)}
    assert compiled(params).memory_analysis().temp_size_in_bytes < params["w"].nbytes / 4


def test_large_leaves_are_taken_in_turn():
    """In the schedule, the first leaf's parameter is done before the third leaf's moments are begun."""
    text = compiled({k: jnp.ones((512, 256 + i)) for i, k in enumerate("abc")}).as_text()
    lines = text[text.index("ENTRY") :].splitlines()
    of = {
        k: [i for i, line in enumerate(lines) if re.search(rf"= f32\[512,{width}\].* fusion\(", line)]
        for k, width in (("a", 256), ("c", 258))
    }
    assert len(of["a"]) == len(of["c"]) == 3  # m, v and θ
    assert max(of["a"]) < min(of["c"])


def test_small_leaves_of_one_size_start_three_kernels_each():
    """m, v and θ, as in `optax.adam`: what is one number for each leaf is computed for all of them at once."""
    few, many = (compiled([jnp.ones((8, n)) for n in [8] * k]).as_text().count(" fusion(") for k in (10, 20))
    assert many - few == 3 * 10


def test_a_traced_leaf_is_not_asked_for_its_device(monkeypatch, data):
    """JAX would search the whole program so far for the origin of the array, just to say that there is no device."""
    asked = []
    monkeypatch.setattr(jax.core.Tracer, "device", property(lambda self: asked.append(self)))
    jax.jit(lambda *args: step(*args), static_argnums=0).trace(set_adam(LR), *data)
    assert not asked


def test_the_derivative_through_a_large_leaf():
    """Along a random direction, against central differences in float64: the sums by groups are differentiated too."""
    rng = np.random.default_rng(0)
    g, along, weight = (rng.normal(size=(2**15 + 16,)) for _ in "gaw")
    optimizer = scale_by_set_adam(eps=1e-2)

    def loss(g):
        updates, _ = optimizer.update(g, optimizer.init(g))
        return jnp.dot(updates, weight)

    with jax.enable_x64(True):
        assert is_large(jnp.asarray(g))
        slope, value, h = jnp.dot(jax.jit(jax.grad(loss))(g), along), jax.jit(loss), 1e-5
        numeric = (value(g + h * along) - value(g - h * along)) / (2 * h)
        # h² of truncation, u/h of rounding of a sum of 2¹⁵ terms: each far below this.
        np.testing.assert_allclose(slope, numeric, rtol=1e-5)
