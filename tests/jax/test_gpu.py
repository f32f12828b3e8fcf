"""set_adam on a CUDA device: the kit's properties, and buffers that are given away."""

import jax
import numpy as np
import pytest

from setadam_conformance.properties import PROPERTIES
from setadam_conformance.running.backends import Source
from setadam_conformance.running.plan import PROFILES, plan
from setadam_conformance.running.runner import check
from setadam_jax import set_adam
from setadam_jax.conformance import JittedJAX

pytestmark = pytest.mark.gpu


@pytest.fixture
def device():
    try:
        return jax.local_devices(backend="cuda")[0]
    except RuntimeError as error:
        pytest.skip(f"JAX sees no CUDA device: {error}")


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_conforms_on_the_device(device, dtype):
    adapter = JittedJAX("cuda:0")
    source = Source(adapter.name, adapter.framework, "none:none")
    for cell in plan({source: adapter.capabilities}, profile=PROFILES["quick"], dtypes=(dtype,)):
        result = check(PROPERTIES[cell.property], adapter, cell)
        assert result.status == "pass", (cell.property, result.reason, result.failure)


def test_a_donated_step_takes_the_memory_that_it_is_given(device):
    """Parameters and state are updated in place, and like the CPU's: sums in another order, a few roundings."""
    rng, optimizer = np.random.default_rng(0), set_adam(1e-2)
    arrays = {"w": rng.standard_normal((300, 50)).astype("f4"), "b": rng.standard_normal(7).astype("f4")}

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(lambda p, u: p + u, params, updates), state

    found = []
    for place in (device, jax.local_devices(backend="cpu")[0]):
        params, grads = (jax.device_put(arrays, place) for _ in "pg")
        with jax.default_device(place):
            state = jax.device_put(optimizer.init(params), place)
            new, _ = jax.jit(step, donate_argnums=(0, 1))(params, state, grads)
        assert params["w"].is_deleted()
        found.append(new)
    for name in arrays:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=2**-23, atol=1e-5 * 2e-2)
