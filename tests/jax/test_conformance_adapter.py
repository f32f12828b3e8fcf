"""The adapters for the conformance kit: bits in, bits out, one step like the specification's."""

import ml_dtypes
import numpy as np
import pytest

from setadam_conformance.protocol import Adapter, LayerState
from setadam_core import Hyperparameters, State
from setadam_core import step as spec_step
from setadam_jax.conformance import EagerJAX, JittedJAX

HP = {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True, "tau": 0.25}


@pytest.mark.parametrize("adapter", [EagerJAX, JittedJAX])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "complex64"])
def test_one_step(adapter, dtype):
    backend, kind = adapter("cpu"), np.dtype(getattr(ml_dtypes, dtype, dtype))
    assert isinstance(backend, Adapter)
    rng = np.random.default_rng(0)
    params, grads = ([rng.uniform(0.25, 2, s).astype(kind) for s in ((3, 4), (5,))] for _ in range(2))
    compute = np.float64 if dtype == "float64" else np.float32
    tail = (2,) if kind.kind == "c" else ()
    moments = [[rng.uniform(0.25, 2, p.shape + tail).astype(compute) for p in params] for _ in range(2)]
    native = [[backend.from_numpy(x) for x in xs] for xs in (params, grads, *moments)]
    for x, y in zip(params, native[0], strict=True):
        assert backend.to_numpy(y).tobytes() == x.tobytes()
        assert backend.to_numpy(y).dtype == kind
    states = [LayerState(m, v, 6) for m, v in zip(*native[2:], strict=True)]
    axes = ((1,), None)
    new, after = backend.step(native[0], native[1], states, HP, axes)
    assert after[0].t == 7
    for i, p in enumerate(params):
        wide = np.complex128 if tail else np.float64
        state = State(*(np.float64(m[i]) for m in moments), 6)
        expected, s = spec_step(p.astype(wide), grads[i].astype(wide), state, Hyperparameters(**HP), layer_axes=axes[i])
        assert backend.to_numpy(new[i]).dtype == kind
        u, u_param = (float(ml_dtypes.finfo(x).eps) / 2 for x in (compute, kind))
        # θ in its own u, and the update, below 4 η here, within the 60 u of test_step.
        error = np.abs(backend.to_numpy(new[i]).astype(wide) - expected)
        assert np.all(error <= 3 * u_param * np.abs(expected) + 120 * u * 4e-2)
        np.testing.assert_allclose(backend.to_numpy(after[i].v), s.v, rtol=16 * u)
        np.testing.assert_allclose(backend.to_numpy(after[i].m), s.m, rtol=16 * u)
    reloaded = backend.reload("pickle", new, after, HP)
    for a, b in zip(reloaded, after, strict=True):
        assert backend.to_numpy(a.m).tobytes() == backend.to_numpy(b.m).tobytes()
        assert backend.to_numpy(a.v).tobytes() == backend.to_numpy(b.v).tobytes()
        assert a.t == b.t


def test_no_such_device():
    with pytest.raises(RuntimeError, match="no device 'tpu'"):
        EagerJAX("tpu")


def test_what_must_be_refused():
    backend = JittedJAX()
    p = [backend.from_numpy(np.ones(3, np.float32))]
    state = [LayerState(p[0], p[0], 0)]
    with pytest.raises(ValueError, match="tau must be"):
        backend.step(p, p, state, {"tau": 1.5}, (None,))
    with pytest.raises(ValueError, match="maximize"):
        backend.step(p, p, state, {"maximize": True}, (None,))
    with pytest.raises(ValueError, match="one step count"):
        backend.step(p * 2, p * 2, [state[0], state[0]._replace(t=1)], {}, (None, None))
