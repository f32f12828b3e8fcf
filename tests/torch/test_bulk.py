"""Checks of all layers at once: they never let through what the checks one by one refuse."""

import pytest
import torch

from setadam_torch import SETAdam
from setadam_torch.checks import in_bulk


def made(dtype=torch.float32, **options):
    """Three layers after one step, with their next gradients."""
    params = [torch.nn.Parameter(torch.linspace(1, 2, 6).reshape(2, 3).to(dtype)) for _ in range(3)]
    optimizer = SETAdam(params, **options)
    for _ in range(2):
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, i + 1.0)
        if not optimizer.state:
            optimizer.step()
    return params, optimizer


def passes(params, optimizer):
    states = [optimizer.state[p] for p in params]
    return in_bulk.pass_all_checks(optimizer.param_groups[0], params, [p.grad for p in params], states)


def flat(p, _):
    p._fsdp_flattened = True


def sparse(p, _):
    p.grad = torch.ones(2, 3).to_sparse()


def fewer_coordinates(p, _):
    p.data = torch.ones(1, 3)


def other_shape(p, _):
    p.data = p.data.view(3, 2)


def other_dtype(p, _):
    p.data = p.data.double()


def lost_moment(_, state):
    del state["exp_avg"]


def lost_step(_, state):
    del state["step"]


def moment_of_other_shape(_, state):
    state["exp_avg_sq"] = torch.zeros(5)


def moment_of_other_dtype(_, state):
    state["exp_avg"] = torch.zeros(2, 3, dtype=torch.float64)


def moment_elsewhere(_, state):
    state["exp_avg"] = torch.zeros(2, 3, device="meta")


WRONG = [
    flat,
    sparse,
    fewer_coordinates,
    other_shape,
    other_dtype,
    lost_moment,
    lost_step,
    moment_of_other_shape,
    moment_of_other_dtype,
    moment_elsewhere,
]


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("wrong", WRONG, ids=lambda f: f.__name__)
def test_what_is_wrong_with_one_layer_is_an_error_by_its_name_and_nothing_is_updated(wrong, which, in_process_group):
    params, optimizer = made()
    wrong(params[which], optimizer.state[params[which]])
    before = [p.detach().clone() for p in params]
    steps = [optimizer.state[p].get("step") for p in params]
    assert not passes(params, optimizer)
    with pytest.raises((TypeError, ValueError, KeyError, RuntimeError), match=rf"parameter {which} of group 0: "):
        optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    assert all(t is None or t == 1 for t in steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_usual_layers_pass_at_once(dtype):
    assert passes(*made(dtype))


def test_layers_of_several_dtypes_are_checked_one_by_one_and_updated_as_they_are_alone():
    params = [torch.nn.Parameter(torch.ones(4, dtype=d)) for d in (torch.float32, torch.float64, torch.bfloat16)]
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    together, alone = SETAdam(params), [SETAdam([p]) for p in twins]
    for _ in range(3):
        for p in (*params, *twins):
            p.grad = torch.tensor([1.0, -2.0, 3.0, 0.5]).to(p.dtype)
        together.step()
        for optimizer in alone:
            optimizer.step()
    assert not passes(params, together)
    assert all(torch.equal(p, twin) for p, twin in zip(params, twins, strict=True))


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"capturable": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,)], ids=str)
def test_a_gradient_whose_memory_holds_its_negative(shape, options):
    """The imaginary part of a conjugate: torch negates it when it is read. One coordinate is contiguous."""
    lazy = torch.complex(torch.ones(shape), torch.full(shape, 2.0)).conj().imag
    assert lazy.is_neg()
    results = []
    for grad in (lazy, lazy.clone().resolve_neg().contiguous()):
        p = torch.nn.Parameter(torch.ones(shape))
        p.grad = grad
        optimizer = SETAdam([p], **options)
        optimizer.step()
        results.append((p.detach(), optimizer.state[p]["exp_avg"]))
    for got, wanted in zip(*results, strict=True):  # m: 1 - β1, a product and a sum each; θ, of about 1, rounded once
        torch.testing.assert_close(got, wanted, rtol=2 * 3 * 2**-24, atol=0)
    assert (results[0][1] < 0).all()


def test_a_layer_that_lies_otherwise_in_memory_does_not_go_the_way_of_the_first():
    whole = torch.arange(12.0).reshape(3, 4)
    params = [torch.nn.Parameter(x.clone(memory_format=torch.preserve_format)) for x in (whole, whole, whole)]
    gaps = torch.nn.Parameter(torch.zeros(3, 8)[:, ::2])
    with torch.no_grad():
        gaps.copy_(whole)
    params[1] = gaps
    optimizer = SETAdam(params)
    for _ in range(3):
        for p in params:
            p.grad = torch.ones_like(p) + whole
        optimizer.step()
    assert not gaps.is_contiguous()
    # At each of 3 steps θ < 12 is rounded, and updates of at most 20 lr are (3·11 + 8 + 24)/2 u off, in both.
    torch.testing.assert_close(params[1], params[0], rtol=0, atol=3 * 2 * (12 + 33 * 0.02) * 2**-24)
