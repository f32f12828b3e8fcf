"""fused=True on the CPU: the kernel, what it leaves to other paths, GradScaler, checkpoints."""

import copy
import pickle

import pytest
import torch

from setadam_torch import SETAdam
from setadam_torch.paths.blocks import Blocks
from setadam_torch.paths.choice import why_no_kernel
from setadam_torch.paths.cpu_kernel.path import CPUKernel
from setadam_torch.paths.foreach import Foreach

if (reason := why_no_kernel("cpu", torch.float32)) is not None:
    pytest.skip(reason, allow_module_level=True)


def apart(steps, chain=23):
    """How far θ of two paths may be after steps on given gradients: each rounds θ of at most 4 at every step, and
    its update, of at most 20 lr = 0.02, is within (3H + 8)u/2 + 12u of itself, where H, the chain of additions
    (docs/bound.md), is at most d - 1.
    """
    return {"rtol": 0, "atol": steps * 2 * (4 + (3 * chain + 8 + 24) / 2 * 0.02) * 2**-24}


def params(dtype=torch.float32, shapes=((3, 5), (), (0,), (7,))):
    torch.manual_seed(1)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def run(optimizer, steps, seed=0):
    for step in range(steps):
        torch.manual_seed(seed + step)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn_like(p)
        optimizer.step()
    return [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]


@pytest.fixture
def taken(monkeypatch):
    """Counts the layers that each path is given."""
    counts = {"fused": 0, "blocks": 0, "foreach": 0}

    def counting(path, name):
        usual = path.step

        def step(group, columns):
            counts[name] += len(columns.params)
            usual(group, columns)

        monkeypatch.setattr(path, "step", step)

    for path, name in ((CPUKernel, "fused"), (Blocks, "blocks"), (Foreach, "foreach")):
        counting(path, name)
    return counts


def test_the_default_takes_the_kernel_quietly_and_false_does_not(taken):
    run(SETAdam(params()), 1)
    assert taken == {"fused": 4, "blocks": 0, "foreach": 0}
    run(SETAdam(params(), fused=False), 1)
    assert taken == {"fused": 4, "blocks": 4, "foreach": 0}
    run(SETAdam(params(), foreach=True), 1)
    run(SETAdam(params(), capturable=True), 1)
    assert taken == {"fused": 4, "blocks": 8, "foreach": 4}


def test_gaps_and_interleaved_layers_go_elsewhere(taken):
    with_gaps = torch.randn(4, 6)[:, ::2].requires_grad_()
    dense = torch.randn(4, 6).requires_grad_()
    turned = torch.randn(6, 4).t().requires_grad_()
    reference = [
        x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in (with_gaps, dense, turned)
    ]
    new = run(SETAdam([with_gaps, dense, turned], fused=True), 2)
    assert taken == {"fused": 2, "blocks": 0, "foreach": 4}
    for a, b in zip(new, run(SETAdam(reference, foreach=False), 2), strict=True):
        torch.testing.assert_close(a, b, **apart(2))
    run(SETAdam([dense], layer_axes=(0,), fused=True), 1)
    assert taken["fused"] == 2
    run(SETAdam([dense], layer_axes=(1,), fused=True), 1)
    assert taken["fused"] == 3


def test_channels_last_is_dense(taken):
    p = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    q = p.detach().clone().requires_grad_()
    a, b = run(SETAdam([p], fused=True), 2)[0], run(SETAdam([q], foreach=False), 2)[0]
    assert taken["fused"] == 2
    torch.testing.assert_close(a, b, **apart(2, chain=16 + 8 * 7))


def test_autograd_notices_what_is_written_by_address():
    p = torch.randn(3).requires_grad_()
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    SETAdam([p], fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_bits_do_not_depend_on_the_number_of_threads():
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(run(SETAdam(params(shapes=((700, 300), (5,))), fused=True), 2))
    torch.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_alike(how):
    one = SETAdam(params(), fused=True)
    run(one, 2)
    two = how(one)
    assert all(torch.equal(a, b) for a, b in zip(run(one, 2, 5), run(two, 2, 5), strict=True))


@pytest.mark.parametrize(
    ("before", "after"), [({"fused": True}, {"foreach": True}), ({"foreach": True}, {"fused": True})]
)
def test_a_checkpoint_switches_paths(before, after):
    one = SETAdam(params(), **before)
    run(one, 2)
    two = SETAdam([p.detach().clone().requires_grad_() for p in one.param_groups[0]["params"]], **after)
    saved = one.state_dict()
    for group in saved["param_groups"]:
        group.update({"fused": after.get("fused"), "foreach": after.get("foreach")})
    two.load_state_dict(saved)
    for a, b in zip(run(one, 3, 5), run(two, 3, 5), strict=True):
        torch.testing.assert_close(a, b, **apart(3))


@pytest.mark.parametrize("overflow", [False, True])
@pytest.mark.parametrize("unscale_first", [False, True])
def test_grad_scaler(overflow, unscale_first):
    p, q = (torch.ones(3).requires_grad_() for _ in "pq")
    optimizer, plain = SETAdam([p], lr=0.1, fused=True), SETAdam([q], lr=0.1, fused=False)
    for opt, x in ((optimizer, p), (plain, q)):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        loss = (x * torch.tensor([1.0, 2.0, float("inf") if overflow else 3.0])).sum()
        scaler.scale(loss).backward()
        if unscale_first:
            scaler.unscale_(opt)
        scaler.step(opt)
        scaler.update()
        assert scaler.get_scale() == (512.0 if overflow else 1024.0)
    torch.testing.assert_close(p, q, rtol=0, atol=12 * 2**-24)  # θ = 1, q < 0.25, d = 3: 2(1 + 20·0.25)u
    if overflow:
        assert torch.equal(p, torch.ones(3))
        assert not optimizer.state[p] or optimizer.state[p]["step"] == 0
    else:
        torch.testing.assert_close(p.grad, torch.tensor([1.0, 2.0, 3.0]))
        assert optimizer.state[p]["step"] == 1


def test_without_the_kernel_only_an_explicit_wish_fails(monkeypatch):
    monkeypatch.setattr(CPUKernel, "missing", lambda *_: "it needs Numba: pip install numba")
    run(SETAdam(params()), 1)
    with pytest.raises(RuntimeError, match=r"parameter 0 of group 0: fused=True cannot be had: .*pip install numba"):
        SETAdam(params(), fused=True)


def test_what_there_is_no_kernel_for():
    assert "no kernel for xpu" in why_no_kernel("xpu", torch.float32)
