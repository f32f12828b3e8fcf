"""What a user of torch.optim.Adam relies on."""

import copy
import math

import pytest
import torch
from torch import nn

from setadam_torch import SETAdam

BOTH = pytest.mark.parametrize("foreach", [False, True, None])


def parameters(*shapes, dtype=torch.float32):
    params = [torch.randn(s).to(dtype).requires_grad_() for s in shapes or [(3, 4), (5,)]]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def snapshot(opt):
    return copy.deepcopy((opt.param_groups, [dict(s) for s in opt.state.values()]))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lr": -0.1}, ValueError, "lr must be finite and ≥ 0, got -0.1"),
        ({"lr": torch.tensor(-0.1)}, ValueError, "lr must be finite"),
        ({"lr": torch.ones(2)}, ValueError, "a Tensor of one element"),
        ({"betas": (0.9, 1.0)}, ValueError, r"beta2 must be in \[0, 1\), got 1.0"),
        ({"betas": 0.9}, ValueError, "betas must be a pair"),
        ({"betas": (torch.tensor(0.9), 0.9)}, TypeError, "only lr may be an array"),
        ({"eps": 0.0}, ValueError, "eps must be finite and > 0, got 0.0"),
        ({"eps": torch.tensor(1e-8)}, TypeError, "only lr may be an array"),
        ({"tau": 1.0}, ValueError, r"tau must be in \[0, 1\), got 1.0"),
        ({"weight_decay": math.nan}, ValueError, "weight_decay must be finite and ≥ 0, got nan"),
        ({"fused": True, "foreach": True}, ValueError, "foreach must be False or None with fused=True"),
        ({"fused": True, "differentiable": True}, ValueError, "fused must be False or None with differentiable"),
        ({"foreach": True, "differentiable": True}, ValueError, "differentiable"),
        ({"layer_axes": (0, 0)}, ValueError, "layer_axes must be None or distinct axes"),
        ({"maximize": 1}, TypeError, "maximize must be True or False"),
    ],
)
def test_options_are_checked(options, error, words):
    with pytest.raises(error, match=words):
        SETAdam(parameters(), **options)
    opt = SETAdam(parameters())
    with pytest.raises(error, match=words):
        opt.add_param_group({"params": parameters(), **options})
    assert len(opt.param_groups) == 1


@BOTH
@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (
            lambda p, g: setattr(p[1], "grad", torch.randn(5).to_sparse()),
            RuntimeError,
            "parameter 1 of group 0: it has a sparse",
        ),
        (lambda p, g: g.update(lr=math.inf), ValueError, "lr must be finite"),
        (lambda p, g: g.update(eps=1e-39), ValueError, "eps must be at least .* float32"),
        (lambda p, g: g.update(layer_axes=(1,)), ValueError, "parameter 1 of group 0: layer_axes"),
        (
            lambda p, g: setattr(p[1], "_is_flat_param", True),
            TypeError,
            "parameter 1 of group 0: it is flattened by FSDP",
        ),
    ],
)
def test_an_error_updates_nothing(foreach, spoil, error, words, in_process_group):
    params = parameters()
    opt = SETAdam(params, foreach=foreach)
    opt.step()
    spoil(params, opt.param_groups[0])
    before, values = snapshot(opt), [p.detach().clone() for p in params]
    with pytest.raises(error, match=words):
        opt.step()
    assert same(snapshot(opt), before)
    assert same([p.detach() for p in params], values)


def test_integer_and_non_leaf_parameters():
    integer = torch.ones(3, dtype=torch.int64)
    opt = SETAdam([integer])
    opt.step()  # as torch.optim.Adam: without a gradient it is skipped
    integer.grad = torch.ones_like(integer)
    with pytest.raises(TypeError, match=r"parameter 0 of group 0: must have one of the dtypes"):
        opt.step()
    with pytest.raises(ValueError, match="non-leaf"):
        SETAdam([torch.ones(2, requires_grad=True) * 2])


@BOTH
def test_parameters_without_gradient_are_skipped(foreach):
    params = parameters((3,), (3,))
    opt = SETAdam(params, foreach=foreach)
    opt.step()
    params[0].grad = None
    before = params[0].detach().clone()
    opt.step()
    assert torch.equal(params[0], before)
    assert [int(opt.state[p]["step"]) for p in params] == [1, 2]


@BOTH
@pytest.mark.parametrize("decoupled", [False, True])
def test_the_gradient_is_never_written(foreach, decoupled):
    params = parameters((3,), ())
    grads = [p.grad.clone() for p in params]
    kinds = {"decoupled_weight_decay": decoupled, "maximize": True, "weight_decay": 0.1}
    SETAdam(params, foreach=foreach, **kinds).step()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, grads, strict=True))


@BOTH
def test_groups_have_their_own_options(foreach):
    ours = parameters((4, 3), (4, 3))
    alone = [p.detach().clone().requires_grad_() for p in ours]
    for a, p in zip(alone, ours, strict=True):
        a.grad = p.grad.clone()
    one = {"lr": 0.1, "betas": (0.5, 0.6), "eps": 1e-3, "tau": 0.0, "layer_axes": (1,)}
    two = {"weight_decay": 0.2, "maximize": True, "cos_power": 4, "eps_inside_sqrt": False}
    both = SETAdam([{"params": ours[:1], **one}], foreach=foreach)
    both.add_param_group({"params": ours[1:], **two})
    both.step()
    SETAdam(alone[:1], foreach=foreach, **one).step()
    SETAdam(alone[1:], foreach=foreach, **two).step()
    assert all(map(torch.equal, ours, alone))


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_parameters_have_float32_moments(foreach, dtype):
    params = parameters(dtype=dtype)
    opt = SETAdam(params, foreach=foreach)
    opt.step()
    assert {s[k].dtype for s in opt.state.values() for k in ("exp_avg", "exp_avg_sq")} == {torch.float32}
    assert {p.dtype for p in params} == {dtype}


@BOTH
def test_tensor_lr_equals_number_lr(foreach):
    a, b = parameters((6,)), parameters((6,))
    b[0].data.copy_(a[0].data)
    b[0].grad.copy_(a[0].grad)
    SETAdam(a, lr=torch.tensor(0.125), foreach=foreach).step()
    SETAdam(b, lr=0.125, foreach=foreach).step()
    torch.testing.assert_close(a, b, rtol=4 * 2**-24, atol=4 * 2**-24)  # η/bc1 rounded once more


@BOTH
def test_capturable_keeps_the_step_count_a_tensor(foreach):
    a, b = parameters((6,)), parameters((6,))
    b[0].data.copy_(a[0].data)
    b[0].grad.copy_(a[0].grad)
    for params, capturable in ((a, True), (b, False)):
        opt = SETAdam(params, foreach=foreach, capturable=capturable)
        for _ in range(3):
            opt.step()
    # 1 - βᵗ formed in float32 from t: 4u of each update (≤ 3 lr/√ε·… < 0.1 in all), besides θ's rounding
    torch.testing.assert_close(a, b, rtol=8 * 2**-24, atol=8 * 2**-24)


def test_closures_hooks_and_zero_grad():
    (p,) = parameters((4,))
    opt, seen = SETAdam([p]), []
    opt.register_step_pre_hook(lambda *_: seen.append("pre"))
    opt.register_step_post_hook(lambda *_: seen.append("post"))

    def closure():
        opt.zero_grad()
        assert p.grad is None
        loss = (p**2).sum()
        loss.backward()
        return loss

    first = opt.step(closure)
    assert opt.step(closure) < first
    assert seen == ["pre", "post"] * 2


def test_grad_scaler_skips_infinite_steps():
    (p,) = parameters((4,))
    opt, scaler = SETAdam([p]), torch.amp.GradScaler("cpu", init_scale=8.0)
    before = p.detach().clone()
    opt.zero_grad()
    scaler.scale((p * math.inf).sum()).backward()
    scaler.step(opt)
    scaler.update()
    assert torch.equal(p, before)
    opt.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = (p[None] @ torch.ones(4, 1)).sum()
    scaler.scale(loss).backward()
    scaler.unscale_(opt)
    nn.utils.clip_grad_norm_([p], 1.0)
    scaler.step(opt)
    assert not torch.equal(p, before)
    assert int(opt.state[p]["step"]) == 1


def test_averaged_models():
    model = nn.Linear(3, 2)
    average, opt = torch.optim.swa_utils.AveragedModel(model), SETAdam(model.parameters(), lr=0.1)
    schedule = torch.optim.swa_utils.SWALR(opt, swa_lr=0.05)
    for _ in range(3):
        opt.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        opt.step()
        average.update_parameters(model)
        schedule.step()
    assert int(average.n_averaged) == 3
    assert not torch.equal(average.module.weight, model.weight)


def test_functional_gradients():
    model = nn.Linear(3, 1)
    params = dict(model.named_parameters())
    loss = lambda p: torch.func.functional_call(model, p, torch.ones(2, 3)).square().sum()  # noqa: E731
    opt = SETAdam(params.items(), lr=0.1)
    before = loss(params)
    for _ in range(20):
        grads = torch.func.grad(loss)({k: p.detach() for k, p in params.items()})
        for name, p in params.items():
            p.grad = grads[name]
        opt.step()
    assert loss(params) < before / 2


def test_differentiable_through_two_steps():
    def two_steps(theta, g1, g2, lr):
        p = theta.clone()
        opt = SETAdam([p], lr=lr, differentiable=True, weight_decay=0.1, decoupled_weight_decay=True)
        for g in (g1, g2):
            p.grad = g
            opt.step()
        return p

    inputs = [torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(two_steps, (*inputs, rate))


def test_layer_statistics():
    stacked, plain = parameters((2, 3, 4), (5,))
    opt = SETAdam([{"params": [("experts", stacked)], "layer_axes": (1, 2)}, {"params": [("bias", plain)]}])
    assert opt.layer_statistics() == {}
    opt.step()
    found = opt.layer_statistics()
    assert list(found) == ["experts", "bias"]
    assert found["experts"]["gamma"].shape == (2,)
    bias = found["bias"]
    v = opt.state[plain]["exp_avg_sq"].double()
    gamma = v.sum() ** 2 / (5 * (v**2).sum())
    w = (gamma * v / 0.001 + 1e-8).sqrt()
    size = 1 / (w - w.min() / 2)
    share = (w <= 2**0.5 * 1e-4).double().mean()
    expected = [gamma, w.min(), share, size.min(), size.mean(), size.std(unbiased=False), size.max()]
    assert list(bias.values()) == pytest.approx([x.item() for x in expected], rel=1e-5)  # float32, d = 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graph_holds_the_step():
    (p,) = (torch.randn(64, device="cuda", requires_grad=True),)
    p.grad = torch.randn_like(p)
    opt = SETAdam([p], capturable=True)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        opt.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    graph.replay()
    graph.replay()
    assert int(opt.state[p]["step"]) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True}])
def test_foreach_launches_do_not_grow_with_the_layers(options):
    """But for two launches a layer: scaling it by its own γ, and taking its own minimum off."""
    counts = []
    for n in (10, 20):
        params = [torch.randn(64, 8, device="cuda", requires_grad=True) for _ in range(n)]
        for p in params:
            p.grad = torch.randn_like(p)
        opt = SETAdam(params, foreach=True, **options)
        opt.step()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            opt.step()
            torch.cuda.synchronize()
        kernels = [e for e in profile.events() if "Memcpy" not in e.name and "Memset" not in e.name]
        counts.append(len(kernels))
    # and a launch more for an operation whose list is cut where a launch's arguments are full
    assert counts[1] - counts[0] <= 2 * 10 + 5, counts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_foreach_does_not_wait_for_the_device():
    params = [torch.randn(64, 8, device="cuda", requires_grad=True) for _ in range(3)]
    for p in params:
        p.grad = torch.randn_like(p)
    opt = SETAdam(params, foreach=True)
    opt.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        opt.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
