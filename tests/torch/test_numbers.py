"""Every path against setadam_core under NumPy in float64, from exactly the same inputs."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from setadam_conformance.protocol import LayerState
from setadam_core import Hyperparameters, State, step
from setadam_torch import SETAdam
from setadam_torch.conformance import TorchBlocks, TorchCompiled, TorchDefault, TorchForeach, TorchSingle

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}


def compute(dtype):
    return np.float64 if dtype == np.float64 else np.float32


def layers(shapes, dtype, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    params, grads, states = [], [], []
    for shape in shapes:
        params.append(np.asarray(rng.standard_normal(shape)).astype(dtype))
        grads.append(np.asarray(scale * rng.standard_normal(shape)).astype(dtype))
        m = np.asarray(scale * rng.standard_normal(shape)).astype(compute(dtype))
        v = np.asarray((scale * rng.standard_normal(shape)) ** 2).astype(compute(dtype))
        states.append(LayerState(m, v, 6))
    return params, grads, states


def check(adapter, params, grads, states, hp, axes):
    f = adapter.from_numpy
    native = [LayerState(f(s.m), f(s.v), s.t) for s in states]
    given_grads = [f(g) for g in grads]
    got, new = adapter.step([f(p) for p in params], given_grads, native, hp, axes)
    for p, g, s, a, q, n in zip(params, grads, states, axes, got, new, strict=True):
        wide = np.float64  # for float64 its own reference: the bound leaves room for both errors
        moments = State(s.m.astype(wide), s.v.astype(wide), s.t)
        with np.errstate(invalid="ignore"):  # the minimum of an empty layer is ∞, times τ = 0
            ref, s64 = step(p.astype(wide), g.astype(wide), moments, Hyperparameters(**hp), layer_axes=a)
        u = 2.0**-53 if p.dtype == np.float64 else 2.0**-24
        mu = np.finfo(compute(p.dtype)).smallest_normal
        full = Hyperparameters(**hp)
        # m: two products, a sum or a lerp, and a coefficient: ≤ 4u of each of its terms.
        size_m = full.beta1 * np.abs(s.m.astype(wide)) + (1 - full.beta1) * (
            np.abs(g.astype(wide)) + full.weight_decay * np.abs(p.astype(wide))
        )
        dm = 8 * u * size_m + 5 * mu
        assert np.all(np.abs(adapter.to_numpy(n.m) - s64.m) <= dm)
        g2 = (np.abs(g.astype(wide)) + full.weight_decay * np.abs(p.astype(wide))) ** 2
        dv = 8 * u * (full.beta2 * s.v.astype(wide) + (1 - full.beta2) * g2) + 4 * mu
        assert np.all(np.abs(adapter.to_numpy(n.v) - s64.v) <= dv)
        assert n.t == s.t + 1
        # θ: γ is off by ≤ (3H + 8)u + 4·8u with H ≤ d - 1 < 64 here; w by half of it; w - τ·min w
        # magnifies that by at most 1/(1-τ); 8 more operations; then one rounding to the dtype.
        relative = ((3 * 64 + 40) / 2 / (1 - full.tau) + 16) * u
        update = np.abs(ref - p.astype(wide))
        carried = full.lr / (1 - full.beta1 ** (s.t + 1)) * dm / ((1 - full.tau) * np.sqrt(full.eps))
        rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(p.dtype.name, 2 * u)
        tiny = 2.0**-24 if p.dtype == np.float16 else mu
        bound = relative * (update + full.lr * np.abs(p.astype(wide))) + carried
        bound = bound + rounding * (np.abs(ref) + bound) + tiny
        assert np.all(np.abs(adapter.to_numpy(q).astype(wide) - ref) <= bound)
    for g, before in zip(given_grads, grads, strict=True):  # p.grad is never written
        assert adapter.to_numpy(g).tobytes() == before.tobytes()


hyper = st.fixed_dictionaries(
    {},
    optional={
        "lr": st.sampled_from([0.0, 1e-3, 0.3]),
        "beta1": st.sampled_from([0.0, 0.5, 0.99]),
        "beta2": st.sampled_from([0.0, 0.7, 0.9999]),
        "eps": st.sampled_from([1e-12, 1e-4]),
        "tau": st.sampled_from([0.0, 0.25, 0.9]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "decoupled_weight_decay": st.booleans(),
        "maximize": st.booleans(),
        "cos_power": st.sampled_from([0.0, 1.0, 4.0]),
        "eps_inside_sqrt": st.booleans(),
    },
)


@pytest.mark.parametrize("adapter", [TorchSingle, TorchForeach, TorchBlocks, TorchDefault])
@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    shapes=st.lists(st.sampled_from([(), (0,), (1,), (7,), (3, 5), (2, 4, 8), (0, 3)]), min_size=1, max_size=4),
    hp=hyper,
    scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e2]),
    seed=st.integers(0, 99),
)
def test_paths_agree_with_the_specification(adapter, dtype, shapes, hp, scale, seed):
    check(adapter(), *layers(shapes, DTYPES[dtype], seed, scale), hp, [None] * len(shapes))


@pytest.mark.parametrize("adapter", [TorchSingle, TorchForeach, TorchBlocks, TorchDefault])
@pytest.mark.parametrize("axes", [(), (1,), (1, 2), (0, 2), (-1,)])
def test_layer_axes(adapter, axes):
    check(adapter(), *layers([(3, 4, 2), (1, 5, 6)], np.float32, 0), {}, [axes, axes])


@pytest.mark.parametrize("adapter", [TorchSingle, TorchForeach, TorchBlocks, TorchDefault])
@pytest.mark.parametrize("scale", [1e-20, 1e-17, 1e15])
def test_gamma_is_free_of_scale(adapter, scale):
    """v of 1e-34 … 1e30: Σv² leaves float32 on both sides. eps small enough for γ to matter."""
    check(adapter(), *layers([(8, 7)], np.float32, 0, scale), {"eps": 1e-37}, [None])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own imports
def test_the_compiled_step():
    params, grads, states = layers([(3, 5), (), (0,), (7,)], np.float32, 0)
    check(TorchCompiled(), params, grads, states, {"weight_decay": 0.1}, [None] * 4)


@pytest.mark.parametrize("adapter", [TorchSingle, TorchForeach, TorchBlocks, TorchDefault])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_is_view_as_real(adapter, dtype):
    z, dz = torch.randn(3, 4, dtype=dtype), torch.randn(3, 4, dtype=dtype)
    states = [LayerState(*(torch.zeros_like(torch.view_as_real(z)) for _ in "mv"), 0) for _ in "ab"]
    as_real = torch.view_as_real(z).clone()
    (new,), _ = adapter().step([z], [dz], states[:1], {}, [None])
    (expected,), _ = adapter().step([as_real], [torch.view_as_real(dz).clone()], states[1:], {}, [None])
    assert torch.equal(torch.view_as_real(new), expected)


def test_zero_gradients_leave_zero_moments_and_finite_parameters():
    for adapter in (TorchSingle(), TorchForeach()):
        p, zero = torch.ones(4), torch.zeros(4)
        (new,), _ = adapter.step([p], [zero], [LayerState(zero.clone(), zero.clone(), 0)], {}, [None])
        assert torch.equal(new, torch.ones(4))


def test_a_layer_of_many_blocks(monkeypatch):
    monkeypatch.setattr("setadam_torch.paths.blocks.BLOCK", 7)
    for dtype in (np.float64, np.float32, ml_dtypes.bfloat16):
        for scale in (1e-17, 1.0, 1e12):  # Σv² of v as it is would underflow, would not, would overflow
            params, grads, states = layers([(8, 7), (3, 5), (1,)], dtype, 0, scale)
            check(TorchBlocks(), params, grads, states, {"eps": 1e-30, "tau": 0.3}, [None] * 3)


@pytest.mark.parametrize("scale", [1e-17, 1.0, 1e12])
def test_small_layers_in_blocks_are_alone_what_they_are_together(scale):
    """Bit for bit, also where the squares of one of them leave the range and another's do not."""
    grads = [scale * torch.randn(40, 30), torch.randn(40, 30), torch.zeros(40, 30)]
    together, alone = ([torch.nn.Parameter(torch.zeros(40, 30)) for _ in grads] for _ in range(2))
    options = {"fused": False, "eps": 1e-3}
    optimizers = [SETAdam(together, **options), *(SETAdam([p], **options) for p in alone)]
    for _ in range(3):
        for p, q, g in zip(together, alone, grads, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(together, alone, strict=True))


@pytest.mark.parametrize("path", [{}, {"foreach": True}, {"capturable": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize("count", [-1.0, float("nan")])
def test_a_step_count_below_zero_is_refused_before_anything_is_written(path, count):
    """1-β⁰ is 0: a step from t = -1 would divide by it. Two groups, of which the second is wrong."""
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = SETAdam([{"params": [p]} for p in params], **path)
    for p in params:
        p.grad = torch.ones(3)
    optimizer.step()
    optimizer.state[params[1]]["step"].fill_(count)
    before = [x.clone() for p in params for x in (p.detach(), *optimizer.state[p].values())]
    with pytest.raises(ValueError, match=r"group 1: step must be ≥ 0, got (-1|nan)"):
        optimizer.step()
    after = [x for p in params for x in (p.detach(), *optimizer.state[p].values())]
    assert all(torch.equal(x, y) or x.isnan().all() for x, y in zip(before, after, strict=True))
