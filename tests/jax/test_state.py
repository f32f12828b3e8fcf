"""The state during a run through orbax, flax and pickle, bit for bit; layer_statistics; the missing extra."""

import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from setadam_core import Hyperparameters, State, trace
from setadam_jax import LayerStatistics, layer_statistics, set_adam

OPTIMIZER = set_adam(optax.linear_schedule(1e-2, 0.0, 10), mu_dtype="bfloat16")


@jax.jit
def step(params, state, grads):
    updates, state = OPTIMIZER.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@pytest.fixture(scope="module")
def middle(reference):
    params = jax.tree.map(jnp.asarray, reference.tree(0))
    state = OPTIMIZER.init(params)
    for i in range(2):
        params, state = step(params, state, reference.tree(1 + i))
    return params, state, reference.tree(3)


def through_pickle(state, template, folder):
    return pickle.loads(pickle.dumps(state))


def through_flax(state, template, folder):
    serialization = pytest.importorskip("flax.serialization")
    return serialization.from_bytes(template, serialization.to_bytes(state))


def through_orbax(state, template, folder):
    ocp = pytest.importorskip("orbax.checkpoint")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state", template)


# orbax leaves an event loop's sockets to the garbage collector, and warns of its own arguments.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("through", [through_pickle, through_flax, through_orbax])
def test_state_round_trips_in_mid_run(through, middle, tmp_path):
    params, state, grads = middle
    back = through(state, OPTIMIZER.init(params), tmp_path)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    onward = (jax.tree.leaves(step(params, x, grads)) for x in (back, state))
    for a, b in zip(*onward, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("layer_axes", [None, (1,)])
def test_layer_statistics(layer_axes, reference):
    params = {"w": reference.tree(0)["w"], "z": np.ones((2, 3), np.complex64)}
    grads = {"w": reference.tree(1)["w"], "z": (np.arange(6) - 2.5j).reshape(2, 3).astype(np.complex64)}
    optimizer = optax.chain(optax.scale(1.0), set_adam(1e-2, tau=0.25, layer_axes=layer_axes))
    _, state = jax.jit(optimizer.update)(grads, optimizer.init(params))
    got = jax.jit(lambda s, p: layer_statistics(s, p, tau=0.25, layer_axes=layer_axes))(state, params)
    for k, g in grads.items():
        wide = g.astype(np.complex128 if k == "z" else np.float64)
        zeros = np.zeros((*g.shape, 2) if k == "z" else g.shape)
        now = trace(wide, wide, State(zeros, zeros, 0), Hyperparameters(tau=0.25), layer_axes=layer_axes)
        stepsize = now.stepsize
        axes = tuple(range(stepsize.ndim)) if layer_axes is None else (1, 2)[: stepsize.ndim - 1]
        expected = LayerStatistics(
            now.gamma.squeeze(axes),
            now.w_min.squeeze(axes),
            np.mean(now.w <= 2**0.5 * 1e-4, axis=axes),
            *(f(stepsize, axis=axes) for f in (np.min, np.mean, np.std, np.max)),
        )
        for name in LayerStatistics._fields:
            value, truth = getattr(got[k], name), getattr(expected, name)
            assert value.shape == np.shape(truth)
            # 60 u as in test_step; a deviation is the difference of values that large.
            atol = 60 * 2.0**-24 * np.max(expected.stepsize_max) * (name == "stepsize_std")
            np.testing.assert_allclose(value, truth, rtol=60 * 2.0**-24, atol=atol)


def test_layer_statistics_before_the_first_step():
    params = {"w": jnp.ones((3, 4))}
    got = layer_statistics(set_adam(1e-2).init(params), params)["w"]
    assert got.gamma == got.floor_share == 1
    np.testing.assert_allclose([got.stepsize_min, got.stepsize_max], 1 / (0.5 * 1e-4), rtol=1e-6)


def test_layer_statistics_of_another_optimizer():
    params = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match="one ScaleBySetAdamState, got 0"):
        layer_statistics(optax.adam(1e-2).init(params), params)


@pytest.mark.parametrize("missing", ["jax", "optax"])
def test_what_is_missing_is_named_with_the_command_that_installs_it(missing):
    program = f"import sys; sys.modules['{missing}'] = None; import setadam_jax"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert 'pip install "jax>=' in done.stderr
    assert "ImportError" in done.stderr
