"""When the compiled kernel is used, and with which arguments: a stand-in records them and computes with the blocks."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from setadam_numpy import SETAdam
from setadam_numpy import fused as fused_path
from setadam_numpy.kernel import Layers


class Recorder:
    """A kernel for all dtypes but float16."""

    def __init__(self):
        self.calls = []

    def why_not(self, dtype):
        return "this CPU has no instructions for float16" if dtype == "float16" else None

    def step_layers(self, params, grads, ms, vs, ts, hp, *, dtype, slices):
        for arrays in zip(params, grads, ms, vs, strict=True):
            assert all(x.flags.c_contiguous for x in arrays)
            assert len({x.size for x in arrays}) == 1
        self.calls.append(SimpleNamespace(n=len(params), ts=ts, dtype=dtype, slices=slices, lr=hp.lr))
        for p in params:
            p += 1

    Layers = Layers

    def step(self, layers, ts, hp):
        """As called from the second step on, by addresses."""
        n = len(layers.sizes)
        self.calls.append(SimpleNamespace(n=n, ts=ts.tolist(), dtype=layers.dtype, slices=[1] * n, lr=hp.lr))


@pytest.fixture
def kernel(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(fused_path, "kernel", recorder)
    return recorder


def ones(shape, dtype=np.float32):
    return np.ones(shape, dtype)


def test_all_of_a_dtype_and_options_go_in_one_call(kernel):
    params = [
        ones(3),
        ones((2, 2)),
        ones(5, np.float64),
        ones(4, ml_dtypes.bfloat16),
        ones(2, np.complex64),
        ones((0, 3)),
    ]
    optimizer = SETAdam(params)
    optimizer.step([p.copy() for p in params])
    optimizer.step([p.copy() for p in params])
    assert [(c.dtype, c.n, c.ts, c.slices) for c in kernel.calls] == [
        (dtype, n, [t] * n, [1] * n) for t in (1, 2) for dtype, n in (("float32", 3), ("float64", 1), ("bfloat16", 1))
    ]


def test_groups_have_calls_of_their_own(kernel):
    optimizer = SETAdam([{"params": {"a": ones(3)}, "lr": 0.5}, {"params": {"b": ones(3)}}, {"params": {"c": ones(3)}}])
    optimizer.step({name: ones(3) for name in "abc"})
    assert [(c.lr, c.n) for c in kernel.calls] == [(0.5, 1), (1e-3, 2)]


def test_stacked_layers_are_slices(kernel):
    optimizer = SETAdam([ones((5, 2, 3)), ones((4, 6))], layer_axes=(-2, -1))
    optimizer.step([ones((5, 2, 3)), ones((4, 6))])
    assert [c.slices for c in kernel.calls] == [[5, 1]]


@pytest.mark.parametrize("how", ["switched off", "float16", "gaps", "interleaved layers"])
def test_what_plain_numpy_computes(kernel, how):
    param = ones((4, 6), np.float16 if how == "float16" else np.float32)
    options = {"switched off": {"fused": False}, "interleaved layers": {"layer_axes": (0,)}}.get(how, {})
    param = param[:, ::2] if how == "gaps" else param
    SETAdam([param], **options).step([param.copy()])
    assert kernel.calls == []
    assert np.all(param < 1)


def test_orders_of_memory_are_no_gaps(kernel):
    """A transposed parameter has no gaps in memory. A gradient in another order is copied, on its own."""
    turned = np.asfortranarray(ones((4, 6)))
    SETAdam([turned, ones((4, 6))]).step([turned.copy(order="K"), turned.copy(order="K")])
    assert [c.n for c in kernel.calls] == [1, 1]


def test_demanding_the_kernel(kernel):
    SETAdam([ones(3)], fused=True)
    with pytest.raises(RuntimeError, match="fused=True for param 'b': this CPU has no instructions for float16"):
        SETAdam({"a": ones(3), "b": ones(3, np.float16)}, fused=True)
    optimizer = SETAdam({"b": ones(3, np.float16)})
    optimizer.param_groups[0]["fused"] = True
    with pytest.raises(RuntimeError, match="fused=True for param 'b'"):
        optimizer.step({"b": ones(3, np.float16)})
    assert np.all(optimizer.params["b"] == 1)


def test_demanding_what_is_missing(monkeypatch):
    missing = SimpleNamespace(why_not=lambda dtype: "the compiled CPU kernel needs Numba: pip install numba")
    monkeypatch.setattr(fused_path, "kernel", missing)
    with pytest.raises(RuntimeError, match="pip install numba"):
        SETAdam([ones(3)], fused=True)
    param = ones(3)
    SETAdam([param]).step([ones(3)])  # and by itself, plain NumPy
    assert np.all(param < 1)
