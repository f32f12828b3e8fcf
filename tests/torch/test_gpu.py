"""SETAdam(fused=True) as users have it on a GPU: in a CUDA graph, with a scaler, with a state from elsewhere, with
gradients that are not where they were. What can be tried without a GPU is tried on the CPU as well.
"""

import copy

import numpy as np
import pytest
import torch

from setadam_numpy import SETAdam as NumPySETAdam
from setadam_torch import SETAdam, load_neutral
from setadam_torch.paths.choice import why_no_kernel

SHAPES = [(300, 50), (7,), (4097,), ()]
LR = 1e-2
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
ON_CUDA = [pytest.mark.gpu, no_cuda]
cuda_alone = pytest.mark.parametrize("device", [pytest.param("cuda", marks=ON_CUDA)])


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=ON_CUDA)])
def device(request):
    if (reason := why_no_kernel(request.param, torch.float32)) is not None:
        pytest.skip(reason)
    return request.param


def parameters(device, shapes=SHAPES):
    """The same on every device."""
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(device)) for s in shapes]


def gradients(device, seed, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator).to(device) for s in shapes]


def give(params, grads):
    for p, g in zip(params, grads, strict=True):
        p.grad = g


def tensors(optimizer):
    """Parameters and states."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [*params, *(optimizer.state[p][key] for p in params for key in ("exp_avg", "exp_avg_sq", "step"))]


def equal(one, other):
    return all(torch.equal(x, y) for x, y in zip(tensors(one), tensors(other), strict=True))


@cuda_alone
def test_replays_of_a_graph_are_eager_steps(device):
    """Captured once; lr and gradients change where they lie."""
    lr = torch.tensor(LR, device=device)
    options = {"fused": True, "capturable": True, "weight_decay": 0.1, "decoupled_weight_decay": True}
    captured, eager = (SETAdam(parameters(device), lr=lr, **options) for _ in "ce")
    params = captured.param_groups[0]["params"]
    give(params, gradients(device, 0))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        captured.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for k in range(1, 6):
        lr.fill_(k * LR)
        for p, g in zip(params, gradients(device, k), strict=True):
            p.grad.copy_(g)
        graph.replay()
    for k in (0, *range(1, 6)):
        lr.fill_(max(k, 1) * LR)
        give(eager.param_groups[0]["params"], gradients(device, k))
        eager.step()
    assert equal(captured, eager)


@cuda_alone
@pytest.mark.parametrize("options", [{"fused": True}, {"fused": True, "capturable": True}, {"foreach": True}], ids=str)
@pytest.mark.parametrize("lr", ["number", "tensor"])
def test_a_step_waits_for_nothing(device, options, lr):
    """Not even the first of an optimizer, which makes states and plans. Kernels have been compiled."""
    lr = LR if lr == "number" else torch.tensor(LR, device=device)
    warm, optimizer = (SETAdam(parameters(device), lr=lr, **options) for _ in "wo")
    give(warm.param_groups[0]["params"], gradients(device, 0))
    warm.step()
    batches = [gradients(device, k) for k in range(3)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for grads in batches:
            give(optimizer.param_groups[0]["params"], grads)
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(optimizer.state[optimizer.param_groups[0]["params"][0]]["step"]) == 3


def scaled_steps(device, step_of):
    """Two steps under a scaler, the second with an overflow; and the same step without a scaler."""
    optimizer, plain = (SETAdam(parameters(device), lr=LR, fused=True) for _ in "op")
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    scaler.scale(torch.zeros((), device=device))  # makes the scale
    params = optimizer.param_groups[0]["params"]
    optimizer.step = step_of(optimizer)
    for k in range(2):
        give(params, [1024 * g for g in gradients(device, k)])
        if k:
            params[1].grad[3] = torch.inf
        scaler.step(optimizer)
        scaler.update()
    give(plain.param_groups[0]["params"], gradients(device, 0))
    plain.step()
    assert scaler.get_scale() == 512
    return optimizer, plain


def test_a_scaler_and_an_eager_step(device):
    optimizer, plain = scaled_steps(device, lambda optimizer: optimizer.step)
    assert equal(optimizer, plain)  # a power of two is exact


@cuda_alone
def test_a_scaler_and_a_compiled_step(device):
    optimizer, plain = scaled_steps(device, lambda optimizer: torch.compile(optimizer.step))
    # The compiled graph takes the sums of a layer in another order, and rounds m, w and m / w a few times each. An
    # update is at most 2 LR after one step, so that this is some 1e-6 of LR; the second gradients would move by LR.
    for x, y in zip(tensors(optimizer), tensors(plain), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5 * LR, check_dtype=False)


def test_the_first_step_after_a_state_from_numpy(device):
    """Both go on from the same numbers. Sums are in double on both sides: θ is off by a few roundings of an update."""
    arrays = [p.detach().numpy().copy() for p in parameters("cpu")]
    first = NumPySETAdam(arrays, lr=LR)
    first.step([g.numpy() for g in gradients("cpu", 0)])
    torch_params = [torch.nn.Parameter(torch.from_numpy(np.array(x)).to(device)) for x in arrays]
    optimizer = SETAdam(torch_params, lr=LR, fused=True)
    load_neutral(optimizer, first.state_dict())
    assert {optimizer.state[p]["step"].device.type for p in torch_params} == {device}
    give(torch_params, gradients(device, 1))
    optimizer.step()
    first.step([g.numpy() for g in gradients("cpu", 1)])
    for p, x in zip(torch_params, arrays, strict=True):
        torch.testing.assert_close(
            p.detach().cpu(), torch.from_numpy(np.array(x)), rtol=2**-23, atol=16 * 2**-24 * 2 * LR
        )
    assert all(int(optimizer.state[p]["step"]) == 2 for p in torch_params)


def test_gradients_with_a_lazy_minus_sign(device):
    """Their memory holds the negative. Another path takes them, with other roundings of m: a product and a sum."""
    lazy, plain = (SETAdam(parameters(device), lr=LR, fused=True) for _ in "lp")
    give(lazy.param_groups[0]["params"], [torch._neg_view(g) for g in gradients(device, 0)])
    give(plain.param_groups[0]["params"], [-g for g in gradients(device, 0)])
    assert all(p.grad.is_neg() for p in lazy.param_groups[0]["params"])
    lazy.step()
    plain.step()
    for p, q in zip(lazy.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(p, q, rtol=2**-23, atol=16 * 2**-24 * 2 * LR)
        m, n = (x.state[y]["exp_avg"] for x, y in ((lazy, p), (plain, q)))
        torch.testing.assert_close(m, n, rtol=2 * 3 * 2**-24, atol=0)


def test_gradients_that_are_elsewhere_in_each_step(device):
    """All are kept, so that none lies where another was. Nothing of a layer's size is allocated on a device."""
    shapes = [(512, 512)] * 4
    moving, still = (SETAdam(parameters(device, shapes), lr=LR, fused=True) for _ in "ms")
    params = still.param_groups[0]["params"]
    give(params, [torch.zeros_like(p) for p in params])
    kept, allocated = [gradients(device, k, shapes) for k in range(13)], []
    assert len({g.data_ptr() for grads in kept for g in grads}) == 13 * 4
    for k, grads in enumerate(kept):
        give(moving.param_groups[0]["params"], grads)
        moving.step()
        if k >= 3 and device == "cuda":
            allocated.append(torch.cuda.memory_allocated())
    for grads in kept:
        for p, g in zip(params, grads, strict=True):
            p.grad.copy_(g)
        still.step()
    assert equal(moving, still)
    # What a step keeps of a place is some words for each layer and for each chunk of some thousand coordinates.
    assert max(allocated, default=0) - min(allocated, default=0) < params[0].nbytes


@cuda_alone
def test_a_side_stream(device):
    """Steps on a stream of their own, and in turns on two, are those of the usual stream."""
    alone, turns, usual = (SETAdam(parameters(device), lr=LR, fused=True) for _ in "atu")
    streams = [torch.cuda.Stream() for _ in range(2)]
    batches = [gradients(device, k) for k in range(6)]
    for k, grads in enumerate(batches):
        for optimizer, stream in ((alone, streams[0]), (turns, streams[k % 2]), (usual, torch.cuda.current_stream())):
            for other in (*streams, torch.cuda.default_stream()):
                stream.wait_stream(other)
            with torch.cuda.stream(stream):
                give(optimizer.param_groups[0]["params"], grads)
                optimizer.step()
    torch.cuda.synchronize()
    assert equal(alone, usual)
    assert equal(turns, usual)


def test_a_copy_steps_alike(device):
    """A plan is of addresses, which a copy does not share."""
    optimizer = SETAdam(parameters(device), lr=LR, fused=True)
    give(optimizer.param_groups[0]["params"], gradients(device, 0))
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    for x in (optimizer, twin):
        give(x.param_groups[0]["params"], gradients(device, 1))
        x.step()
    assert equal(optimizer, twin)
