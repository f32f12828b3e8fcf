"""What a step guarantees about arrays: inputs, dtypes and shapes are unchanged; unusual layers; stacks."""

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from array_api_compat import device
from hypothesis import given
from hypothesis import strategies as st

from setadam_core import Hyperparameters, State, init, step, trace
from setadam_core.layers import COMPUTE_DTYPE

HP = Hyperparameters()
DECAYING = Hyperparameters(weight_decay=0.1, maximize=True)
BACKWARDS = slice(None, None, -1)


def bits(x: Any) -> bytes:
    return np.ascontiguousarray(x).tobytes()


def dtype_of(x: Any) -> str:
    return str(x.dtype).rpartition(".")[2]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (4, 3)], ids=str)
def test_inputs_kept_and_outputs_alike(ns: Any, layers: SimpleNamespace, shape: tuple[int, ...]) -> None:
    """No argument is written, and dtype, shape and device do not change, over two steps from `init`."""
    dtypes = ns.dtypes
    if ns.claims.compiles:  # a shape and dtype cost seconds there
        dtypes = ("complex64",) if shape == (4, 3) else ("bfloat16",)
    for dtype in dtypes:
        param, grad = layers.normal(shape, dtype), layers.normal(shape, dtype, seed=1)
        native, native_grad, state = ns.array(param), ns.array(grad), init(ns.array(param))
        compute = COMPUTE_DTYPE[dtype]
        real_shape = (*shape, 2) if dtype.startswith("complex") else shape
        for t in (1, 2):
            before = [bits(ns.numpy(x)) for x in (native, native_grad, *state[:2])]
            new, new_state = ns.step(native, native_grad, state, DECAYING)
            assert [bits(ns.numpy(x)) for x in (native, native_grad, *state[:2])] == before
            assert (tuple(new.shape), dtype_of(new)) == (shape, dtype)
            for moment in new_state[:2]:
                assert (tuple(moment.shape), dtype_of(moment)) == (real_shape, compute)
            assert device(new) == device(new_state.v) == device(ns.array(param))
            assert type(new) is type(native)
            assert int(new_state.t) == t
            native, state = new, new_state


def test_new_arrays_share_no_memory_with_old(numpy_ns: Any, layers: SimpleNamespace) -> None:
    """Even where nothing changes: lr = 0, β = 0."""
    param, grad = layers.normal((4, 3)), layers.normal((4, 3), seed=1)
    state = init(param)
    for hp in (HP, Hyperparameters(lr=0, beta1=0, beta2=0)):
        new, new_state = step(param, grad, state, hp)
        for out in (new, new_state.m, new_state.v):
            assert not any(np.shares_memory(out, x) for x in (param, grad, state.m, state.v))


def test_device_other_than_the_default() -> None:
    xp = pytest.importorskip("array_api_strict")
    there = xp.Device("device1")
    param = xp.ones((2, 3), device=there)
    for axes in (None, (1,), ()):
        now = trace(param, param, init(param), HP, layer_axes=axes)
        assert {x.device for x in now[:-1]} == {there}
    empty = xp.ones((0, 3), device=there)
    assert {x.device for x in trace(empty, empty, init(empty), HP)[:-1]} == {there}


def _two_orders(d: int, u: float) -> tuple[float, float]:
    """The relative differences that two orders of summing d coordinates can make in γ and in the update.

    Each γ errs by 3 (d - 1) + 8 roundings at most. w̃ = w - τ min w moves by γ's error of itself at most, where
    τ = ½: half of it through the root, and twice that by the difference, w̃ ≥ w / 2. And each of w's product,
    sum, root and difference, the quotient and the product with η, rounds anew, the first ones doubled alike.
    """
    gamma = 2 * (3 * (d - 1) + 8) * u
    return gamma, gamma + 2 * 12 * u


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex64", "float16"])
def test_memory_order_does_not_matter(layers: SimpleNamespace, dtype: str) -> None:
    """Transposed, strided and reversed views give the results of their compact copies, up to the order of the sum."""
    param, grad = layers.normal((6, 10), dtype), layers.normal((6, 10), dtype, seed=1)
    for view in (np.s_[:, :], np.s_[::2, ::3], np.s_[BACKWARDS, BACKWARDS]):
        p, g = param[view].T, grad[view].T
        copies = np.ascontiguousarray(p), np.ascontiguousarray(g)
        now, same = trace(p, g, init(p), HP), trace(*copies, init(copies[0]), HP)
        for name in ("m", "v", "w_min"):
            if name != "w_min":
                assert bits(getattr(now, name)) == bits(getattr(same, name))
        real = 2 if dtype.startswith("complex") else 1
        gamma, update = _two_orders(real * p.size, np.finfo(COMPUTE_DTYPE[dtype]).eps / 2)
        np.testing.assert_allclose(now.gamma, same.gamma, rtol=gamma)
        # θ is rounded once more on each side: to its own dtype, half a unit in the last place each.
        most = update * np.abs(same.param - p).max()
        np.testing.assert_allclose(now.param, same.param, rtol=np.finfo(dtype).eps, atol=most)


def test_torch_views(layers: SimpleNamespace) -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(layers.normal((6, 8), "float32"))
    for view in (x.T, x[::2, 1::3], x.flip(0), torch.ones(1).expand(3, 4)):
        now, same = step(view, view, init(view), HP)[0], step(view.clone(), view.clone(), init(view), HP)[0]
        most = _two_orders(view.numel(), 2**-24)[1] * float((same - view).abs().max())
        torch.testing.assert_close(now, same, rtol=2**-23, atol=most)  # as above


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_is_float32_rounded_once(layers: SimpleNamespace, dtype: str) -> None:
    half = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    param, grad = layers.normal((9, 7), dtype), layers.normal((9, 7), dtype, seed=1)
    wide = param.astype(np.float32)
    state = expected_state = init(param)
    for _ in range(3):
        new, state = step(param, grad, state, HP)
        expected, expected_state = step(wide, grad.astype(np.float32), expected_state, HP)
        assert bits(new) == bits(expected.astype(half))
        assert bits(state.m) == bits(expected_state.m)
        assert bits(state.v) == bits(expected_state.v)
        param, wide = new, new.astype(np.float32)


def test_tiny_half_gradients_reach_the_moments() -> None:
    """Their squares are below the smallest number of float16, but not of float32."""
    grad = np.full(4, 1e-5, np.float16)
    param, state = step(np.zeros(4, np.float16), grad, init(grad), HP)
    assert np.all(state.v > 0)
    assert np.all(np.isfinite(param))
    zero, _ = step(grad, np.zeros_like(grad), init(grad), HP)
    assert bits(zero) == bits(grad)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize(("axes", "real_axes"), [(None, None), ((1,), (1, 2)), ((), (2,)), ((-2,), (0, 2))])
def test_complex_is_real_of_twice_the_coordinates(
    layers: SimpleNamespace, dtype: str, axes: Any, real_axes: Any
) -> None:
    param, grad = layers.normal((4, 3), dtype), layers.normal((4, 3), dtype, seed=1)

    def real(x: np.ndarray) -> np.ndarray:
        return np.stack([x.real, x.imag], axis=-1)

    state = init(param)
    new, state = step(param, grad, state, DECAYING, layer_axes=axes)
    expected, expected_state = step(real(param), real(grad), init(real(param)), DECAYING, layer_axes=real_axes)
    assert bits(real(new)) == bits(expected)
    assert bits(state.m) == bits(expected_state.m)
    assert bits(state.v) == bits(expected_state.v)


@given(st.integers(1, 4), st.integers(0, 5), st.integers(1, 40), st.sampled_from(["float32", "float64"]))
def test_stack_equals_its_layers(layers: SimpleNamespace, count: int, rows: int, columns: int, dtype: str) -> None:
    """A stack along leading axes, bit for bit."""
    shape = (count, rows, columns)
    param, grad = layers.normal(shape, dtype), layers.normal(shape, dtype, seed=1, scale=1e-3)
    m, v = layers.state(param, scale=1e-3)
    stacked, state = step(param, grad, State(m, v, 7), HP, layer_axes=(1, -1))
    for i in range(count):
        new, new_state = step(param[i], grad[i], State(m[i], v[i], 7), HP)
        assert bits(stacked[i]) == bits(new)
        assert bits(state.m[i]) == bits(new_state.m)
        assert bits(state.v[i]) == bits(new_state.v)


def test_large_stack_equals_its_layers(layers: SimpleNamespace) -> None:
    """Longer than NumPy's blocks of pairwise summation."""
    param, grad = layers.normal((3, 200, 97), "float32"), layers.normal((3, 200, 97), "float32", seed=1)
    stacked, _ = step(param, grad, init(param), HP, layer_axes=(1, 2))
    for i in range(3):
        assert bits(stacked[i]) == bits(step(param[i], grad[i], init(param[i]), HP)[0])


def test_every_coordinate_a_layer(layers: SimpleNamespace) -> None:
    """layer_axes=(): γ = 1 and the minimum is w itself, as in 0-d layers."""
    param, grad = layers.normal((4, 3)), layers.normal((4, 3), seed=1)
    now = trace(param, grad, init(param), HP, layer_axes=())
    assert np.all(now.gamma == 1)
    assert bits(now.w_min) == bits(now.w)
    for where in np.ndindex(4, 3):
        one = param[where][()], grad[where][()]
        alone, _ = step(*map(np.asarray, one), init(np.asarray(one[0])), HP)
        assert alone == now.param[where]


def test_layer_axes_in_any_spelling(layers: SimpleNamespace) -> None:
    param, grad = layers.normal((4, 3, 2)), layers.normal((4, 3, 2), seed=1)
    for same in ([(1, 2), (2, 1), [-1, -2], (-1, 1)], [None, (0, 1, 2), [-1, -2, -3]]):
        results = {bits(step(param, grad, init(param), HP, layer_axes=axes)[0]) for axes in same}
        assert len(results) == 1


def test_layers_within_an_empty_array() -> None:
    """No layers of three coordinates, and three layers of none."""
    empty = np.zeros((0, 3))
    for axes, gamma_shape in ((None, (1, 1)), ((1,), (0, 1)), ((0,), (1, 3)), ((), (0, 3))):
        now = trace(empty, empty, init(empty), HP, layer_axes=axes)
        assert now.gamma.shape == now.w_min.shape == gamma_shape
        assert now.param.shape == now.w_shifted.shape == (0, 3)
        assert np.all(now.gamma == 1)


@pytest.mark.parametrize("t", [np.int64(4), np.int32(4), np.asarray(4)], ids=lambda t: type(t).__name__)
def test_step_counts_of_numpy(layers: SimpleNamespace, t: Any) -> None:
    param, grad = layers.normal((4, 3)), layers.normal((4, 3), seed=1)
    m, v = layers.state(param)
    expected, state = step(param, grad, State(m, v, 4), HP)
    new, new_state = step(param, grad, State(m, v, t), HP)
    assert bits(new) == bits(expected)
    assert new_state.t == state.t == 5


def test_step_count_far_on(layers: SimpleNamespace) -> None:
    """βᵗ is negligible, so the bias corrections are 1."""
    param, grad = layers.normal((4, 3)), layers.normal((4, 3), seed=1)
    m, v = layers.state(param)
    far, _ = step(param, grad, State(m, v, 10**7), HP)
    farther, state = step(param, grad, State(m, v, 10**18), HP)
    assert bits(far) == bits(farther)
    assert state.t == 10**18 + 1


@pytest.mark.parametrize("name", ["lr", "beta1", "beta2", "eps", "tau", "weight_decay"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "float16"])
def test_array_hyperparameter_is_its_number(layers: SimpleNamespace, name: str, dtype: str) -> None:
    """Under NumPy, a 0-d float64 array and the Python float give the same result, bit for bit."""
    value = {"lr": 0.01, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6, "tau": 0.3, "weight_decay": 0.1}[name]
    param, grad = layers.normal((4, 3), dtype), layers.normal((4, 3), dtype, seed=1)
    m, v = layers.state(param)
    for t, decoupled in ((0, False), (9, True)):
        common = {"weight_decay": 0.01, "decoupled_weight_decay": decoupled}
        number = Hyperparameters(**{**common, name: value})
        array = Hyperparameters(**{**common, name: np.asarray(value)})
        now, same = (trace(param, grad, State(m, v, t), hp) for hp in (number, array))
        assert now.param.dtype == same.param.dtype
        # log and expm1 are NumPy's for an array β and the C library's for a number: an ulp of 1-βᵗ apart.
        if name in ("beta1", "beta2"):
            u = np.finfo(same.m.dtype).eps
            np.testing.assert_allclose(now.m, same.m, rtol=2 * u)
            np.testing.assert_allclose(now.update, same.update, rtol=16 * u)
        else:
            assert [bits(x) for x in now[:-1]] == [bits(x) for x in same[:-1]]


def test_array_decay_of_zero_decays_nothing(layers: SimpleNamespace) -> None:
    param, grad = layers.normal((4, 3)), layers.normal((4, 3), seed=1)
    expected, _ = step(param, grad, init(param), HP)
    for decoupled in (False, True):
        hp = Hyperparameters(weight_decay=np.asarray(0.0), decoupled_weight_decay=decoupled)
        assert bits(step(param, grad, init(param), hp)[0]) == bits(expected)
