"""Stochastic rounding: each path's own float32 step, rounded by the specification's words, whatever the layout."""

import copy
import io
import itertools
import pickle

import ml_dtypes
import numpy as np
import pytest
import torch

from setadam_core import Rounding
from setadam_torch import SETAdam, rounding

PATHS = {
    "default": {},
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "blocks": {"fused": False},
    "capturable": {"capturable": True, "foreach": True},
}
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def parameters(dtype, seed=0):
    """16-bit layers of several layouts, and a wide one between them."""
    torch.manual_seed(seed)
    shapes = [(5, 7), (), (0, 2), (300,), (4, 3, 2, 2)]
    params = [torch.randn(shape).to(dtype) for shape in shapes]
    params += [torch.randn(6, 8).to(dtype)[::2, ::3], torch.randn(4, 9).to(dtype).T, torch.randn(3)]
    params.append(torch.randn(2, 3, 4, 5).to(dtype).to(memory_format=torch.channels_last))
    return [torch.nn.Parameter(p) for p in params]


def fill(params, t):
    for i, p in enumerate(params):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * t + i)).to(p.dtype)


def bits(x):
    return x.detach().contiguous().view(torch.int16).numpy() if x.dtype.itemsize == 2 else x.detach().numpy()


def rounded(wide, like, seed, place, t):
    """What the specification makes of a float32 parameter after step t."""
    name = ml_dtypes.bfloat16 if like.dtype == torch.bfloat16 else np.float16
    return Rounding(seed, place).round(wide.detach().numpy(), name, t).astype(name).view(np.int16)


def check_next_step(optimizer, params, t):
    """One step, and that of a copy with float32 parameters, which takes the same path."""
    group = {k: x for k, x in optimizer.param_groups[0].items() if k != "params"}
    wide = [torch.nn.Parameter(p.detach().float() if p.dtype.itemsize == 2 else p.detach().clone()) for p in params]
    twin = SETAdam(wide, **{**group, "stochastic_rounding": False})
    fill(params, t)
    for w, p in zip(wide, params, strict=True):
        w.grad = p.grad.to(w.dtype)
        if state := optimizer.state.get(p):
            twin.state[w] = {key: x.clone() for key, x in state.items()}
    twin.step()
    optimizer.step()
    for place, (w, p) in enumerate(zip(wide, params, strict=True)):
        if p.dtype.itemsize == 2:
            expected = rounded(w, p, group["stochastic_rounding"], place, t + 1)
            assert np.array_equal(bits(p).reshape(expected.shape), expected)
        else:
            assert torch.equal(p, w)


@DTYPES
@pytest.mark.parametrize("path", PATHS)
def test_each_path_is_rounded_by_the_specifications_words(path, dtype):
    params = parameters(dtype)
    optimizer = SETAdam(params, lr=0.01, stochastic_rounding=11, **PATHS[path])
    for t in range(3):
        check_next_step(optimizer, params, t)


def run(seed, steps=3, groups=None, options=None, dtype=torch.bfloat16):
    params = parameters(dtype)
    options = {"lr": 0.01, "stochastic_rounding": seed} | (options or {})
    optimizer = SETAdam(groups(params) if groups else params, **options)
    for t in range(steps):
        fill(params, t)
        optimizer.step()
    return [bits(p) for p in params]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_blocks_portions_threads_and_groups_change_nothing(monkeypatch):
    expected = run(5)
    for block, together in itertools.product((1, 7, 100), (1, 40)):
        with monkeypatch.context() as patch:
            patch.setattr(rounding, "_BLOCK", block)
            patch.setattr(rounding, "_TOGETHER", together)
            assert same(run(5), expected)
    assert same(run(5, groups=lambda ps: [{"params": ps[:3]}, {"params": ps[3:]}]), expected)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert same(run(5), expected)
    finally:
        torch.set_num_threads(threads)


def test_true_is_the_seed_0_and_other_seeds_give_other_bits():
    assert same(run(True), run(0))
    assert not same(run(0), run(1))
    assert not same(run(0), run(False))


def test_layers_without_a_gradient_keep_their_places():
    one, other = parameters(torch.bfloat16), parameters(torch.bfloat16)
    fill(one, 0)
    fill(other, 0)
    other[0].grad = None
    for params in (one, other):
        SETAdam(params, lr=0.01, stochastic_rounding=3).step()
    assert same([bits(p) for p in one[1:]], [bits(p) for p in other[1:]])


@pytest.mark.parametrize("how", ["state_dict", "torch.save", "pickle", "deepcopy"])
def test_run_goes_on_after_a_reload(how):
    """The seed is in param_groups and the counter is the state's step: nothing else has to be kept."""
    expected = run(7, steps=4)
    params = parameters(torch.bfloat16)
    optimizer = SETAdam(params, lr=0.01, stochastic_rounding=7)
    for t in range(2):
        fill(params, t)
        optimizer.step()
    if how in ("pickle", "deepcopy"):
        optimizer = pickle.loads(pickle.dumps(optimizer)) if how == "pickle" else copy.deepcopy(optimizer)
        params = optimizer.param_groups[0]["params"]
    else:
        saved = optimizer.state_dict()
        if how == "torch.save":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        params = [torch.nn.Parameter(p.detach().clone()) for p in params]
        optimizer = SETAdam(params)
        optimizer.load_state_dict(saved)
    for t in range(2, 4):
        fill(params, t)
        optimizer.step()
    assert same([bits(p) for p in params], expected)


def test_state_dict_without_the_option_leaves_it():
    params = parameters(torch.bfloat16)
    fill(params, 0)
    adam = torch.optim.Adam(params, foreach=False)
    adam.step()
    optimizer = SETAdam(params, stochastic_rounding=4)
    optimizer.load_state_dict(adam.state_dict())
    assert optimizer.param_groups[0]["stochastic_rounding"] == 4


def test_small_steps_are_not_lost():
    """At 1, bfloat16's numbers are 2⁻⁷ apart: ten steps of 1e-4 leave θ at 1, or move it by 1e-3 on average."""
    ends = {}
    for seed in (False, 1):  # as keys, False and 0 are one
        p = torch.nn.Parameter(torch.ones(1 << 14, dtype=torch.bfloat16))
        optimizer = SETAdam([p], lr=1e-4, tau=0.0, stochastic_rounding=seed)
        for _ in range(10):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends[seed] = p.detach().double()
    assert torch.equal(ends[False], torch.ones_like(ends[False]))
    # 2¹⁴ sums of ten draws of neighbours that are at most 2⁻⁷ apart: Hoeffding's limit at 1e-9 is 2⁻⁷·√(10·21.4/2¹⁵)
    assert abs(ends[1].mean().item() - (1 - 1e-3)) < 2**-7 * (10 * 21.4 / 2**15) ** 0.5


@pytest.mark.parametrize("overflow", [False, True])
def test_grad_scaler(overflow):
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = SETAdam([p], lr=0.1, fused=True, stochastic_rounding=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((p * torch.tensor([1.0, 2.0, float("inf") if overflow else 3.0])).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    if overflow:
        assert torch.equal(p, torch.ones_like(p))
        assert not optimizer.state[p] or optimizer.state[p]["step"] == 0
    else:
        assert p.grad.tolist() == [1.0, 2.0, 3.0]
        q = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        q.grad = p.grad.clone()
        SETAdam([q], lr=0.1, fused=True, stochastic_rounding=1).step()
        assert torch.equal(p, q)


@pytest.mark.parametrize("value", [-1, 2**32, 0.5, "yes", None])
def test_other_seeds_are_refused(value):
    with pytest.raises((TypeError, ValueError), match="stochastic_rounding must be"):
        SETAdam(parameters(torch.bfloat16), stochastic_rounding=value)
    params = parameters(torch.bfloat16)
    optimizer = SETAdam(params, stochastic_rounding=1)
    fill(params, 0)
    before = [bits(p).copy() for p in params]
    optimizer.param_groups[0]["stochastic_rounding"] = value
    with pytest.raises((TypeError, ValueError), match="stochastic_rounding must be"):
        optimizer.step()
    assert same([bits(p) for p in params], before)
    assert not any(optimizer.state.values())


def test_no_derivative():
    with pytest.raises(ValueError, match="stochastic_rounding must be False with differentiable=True"):
        SETAdam(parameters(torch.bfloat16), differentiable=True, stochastic_rounding=0)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own imports
def test_compiled_step_has_the_same_words():
    """A compiled step breaks its graph here. θ only decays, so that float32 numbers are exact."""
    torch.compiler.reset()
    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(n).to(torch.bfloat16)) for n in (40, 7)]
        decay = {"lr": 0.5, "weight_decay": 2.0**-8, "decoupled_weight_decay": True}
        optimizer = SETAdam(params, stochastic_rounding=2**32 - 1, **decay)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for _ in range(3):
            for p in params:
                p.grad = torch.zeros_like(p)
            step()
        ends.append([bits(p) for p in params])
    assert same(*ends)
