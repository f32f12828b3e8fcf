"""The usual step on the CPU, located in one loop: it says yes only to what it has understood, and steps alike."""

import copy
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from setadam_torch import SETAdam
from setadam_torch.paths.choice import why_no_kernel
from setadam_torch.paths.cpu_kernel import at_once

if (reason := why_no_kernel("cpu", torch.float32)) is not None:
    pytest.skip(reason, allow_module_level=True)

from setadam_torch.paths.cpu_kernel import dlpack

if not dlpack.is_tested():
    pytest.skip("on this Python or torch the loop is off", allow_module_level=True)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(), (1,), (7,), (3, 1, 5), (0,), (2, 0, 3), (64, 65)]


def made(dtype=torch.float32, shapes=SHAPES, **options):
    """An optimizer after one step, with its next gradients."""
    params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    optimizer = SETAdam(params, **options)
    for _ in range(2):
        for p in params:
            p.grad = torch.randn(p.shape).to(dtype)
        if not optimizer.state:
            optimizer.step()
    return params, optimizer


def located(params, optimizer):
    return dlpack.locate(params[0].dtype, params, [p.grad for p in params], [optimizer.state[p] for p in params])


def taken_at_once(optimizer):
    """Whether a step would be taken at once; the step itself is taken by a copy."""
    twin = copy.deepcopy(optimizer)
    for group, other in zip(twin.param_groups, optimizer.param_groups, strict=True):
        for p, q in zip(group["params"], other["params"], strict=True):
            p.grad = q.grad
    return at_once.step(twin.param_groups, twin.state)


@pytest.mark.parametrize("dtype", DTYPES)
def test_addresses_and_sizes_are_those_that_torch_tells(dtype):
    params, optimizer = made(dtype)
    found, states = located(params, optimizer), [optimizer.state[p] for p in params]
    columns = [params, [p.grad for p in params], *([s[key] for s in states] for key in ("exp_avg", "exp_avg_sq"))]
    assert found.layers.table.tolist() == [[x.data_ptr() for x in column] for column in columns]
    assert found.layers.sizes.tolist() == [p.numel() for p in params]
    assert found.layers.dtype == str(dtype).removeprefix("torch.")
    assert found.counts.tolist() == [s["step"].data_ptr() for s in states]


@given(
    shape=st.lists(st.integers(0, 3), max_size=4),
    axes=st.permutations(range(4)),
    start=st.integers(0, 1),
    stride=st.integers(1, 2),
    which=st.sampled_from(["param", "grad", "exp_avg", "exp_avg_sq"]),
)
def test_it_says_yes_where_torch_says_contiguous(shape, axes, start, stride, which):
    params, optimizer = made(shapes=[(3,), shape, (2,)])
    p = params[1]
    order = [axis for axis in axes if axis < len(shape)]
    wide = torch.zeros([n * stride + start for n in (shape[axis] for axis in order)])
    other = wide[tuple(slice(start, None, stride) for _ in order)]
    back = sorted(range(len(order)), key=order.__getitem__)
    other = other.permute(back)
    assert list(other.shape) == shape
    if which == "param":
        p.data = other
    elif which == "grad":
        p.grad = other
    else:
        optimizer.state[p][which] = other
    found = located(params, optimizer)
    assert (found is not None) == other.is_contiguous()
    if found is not None:
        row = ["param", "grad", "exp_avg", "exp_avg_sq"].index(which)
        assert found.layers.table[row, 1] == other.data_ptr()


class Subclass(torch.Tensor):
    pass


def subclass(p, state):
    state["exp_avg"] = state["exp_avg"].as_subclass(Subclass)


def array(p, state):
    state["exp_avg"] = state["exp_avg"].numpy()


def nothing(p, state):
    state["exp_avg_sq"] = None


def absent(p, state):
    del state["step"]


def single_count(p, state):
    state["step"] = state["step"].float()


def counts(p, state):
    state["step"] = state["step"].reshape(1)


def other_shape(p, state):
    state["exp_avg_sq"] = torch.zeros(p.numel() + 1)


def other_rank(p, state):
    p.grad = None
    p.data = p.data[None]
    p.grad = torch.zeros_like(p)


def moments_of_other_dtype(p, state):
    state["exp_avg"] = state["exp_avg"].double()


def grad_of_other_dtype(p, state):
    p.data = p.data.double()


def sparse(p, state):
    p.grad = torch.ones(7).to_sparse()


def meta(p, state):
    state["exp_avg"] = torch.zeros(7, device="meta")


def negative_gradient(p, state):
    p.grad = torch._neg_view(p.grad)


def negative_parameter(p, state):
    p.data = torch._neg_view(p.data)


def quantized_moment(p, state):
    state["exp_avg"] = torch.zeros(7, dtype=torch.uint8)


UNUSUAL = [
    subclass,
    array,
    nothing,
    absent,
    single_count,
    counts,
    other_shape,
    other_rank,
    moments_of_other_dtype,
    grad_of_other_dtype,
    sparse,
    meta,
    negative_gradient,
    negative_parameter,
    quantized_moment,
]


@pytest.mark.parametrize("unusual", UNUSUAL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_unusual_tensor_is_noticed_and_leaves_no_exception_behind(unusual, which):
    params, optimizer = made(shapes=[(7,)] * 3)
    unusual(params[which], optimizer.state[params[which]])
    assert located(params, optimizer) is None
    before = [p.detach().clone() for p in params]
    assert not at_once.step(optimizer.param_groups, optimizer.state)
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options", [{}, {"fused": True, "weight_decay": 0.1}, {"maximize": True, "decoupled_weight_decay": True}], ids=str
)
def test_the_same_bits_as_in_the_general_way(dtype, options, monkeypatch):
    taken, usual = [], at_once.step
    watched = lambda *args: taken.append(usual(*args)) or taken[-1]  # noqa: E731
    results = []
    for step in (watched, lambda *_: False):
        torch.manual_seed(1)
        monkeypatch.setattr(at_once, "step", step)
        params, optimizer = made(dtype, **options)
        optimizer.step()
        states = [optimizer.state[p] for p in params]
        results.append([*params, *(s[key] for s in states for key in ("exp_avg", "exp_avg_sq", "step"))])
    assert taken == [False, True]  # there is no state before the first step
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_versions_and_references_are_as_after_any_step():
    params, optimizer = made()
    watched = [torch.Tensor, torch.nn.Parameter, *params, *(optimizer.state[p]["exp_avg"] for p in params)]
    versions, counts = [p._version for p in params], [sys.getrefcount(x) for x in watched]
    for _ in range(50):
        assert at_once.step(optimizer.param_groups, optimizer.state)
    assert [sys.getrefcount(x) for x in watched] == counts
    assert [p._version for p in params] == [version + 50 for version in versions]


def test_a_parameter_without_gradient_is_left_alone():
    params, optimizer = made()
    params[2].grad = None
    before, version = params[2].detach().clone(), params[2]._version
    assert at_once.step(optimizer.param_groups, optimizer.state)
    assert torch.equal(params[2], before)
    assert params[2]._version == version
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 2, 1, 2, 2, 2, 2]


def test_all_groups_or_none():
    params, optimizer = made(shapes=[(3,), (4,)])
    late = torch.nn.Parameter(torch.ones(5))
    late.grad = torch.ones(5)
    optimizer.add_param_group({"params": [late]})
    assert not at_once.step(optimizer.param_groups, optimizer.state)
    assert [int(optimizer.state[p]["step"]) for p in params] == [1, 1]
    optimizer.step()
    assert at_once.step(optimizer.param_groups, optimizer.state)
    assert [int(optimizer.state[p]["step"]) for p in (*params, late)] == [3, 3, 2]


@pytest.mark.parametrize(
    "options",
    [{"foreach": True}, {"foreach": False}, {"fused": False}, {"capturable": True}, {"layer_axes": (-1,)}],
    ids=str,
)
def test_what_was_asked_for_otherwise(options):
    _, optimizer = made(shapes=[(3,), (4,)], **options)
    assert not taken_at_once(optimizer)


def test_a_kernel_that_was_asked_for_comes_before_single_tensors():
    _, optimizer = made(shapes=[(3,), (4,)], fused=True, foreach=False)
    assert taken_at_once(optimizer)


def test_another_version_of_dlpack_is_not_asked(monkeypatch):
    _, optimizer = made()
    assert taken_at_once(optimizer)
    dlpack._describe.cache_clear()
    monkeypatch.setattr(dlpack, "VERSION", 2)
    try:
        assert not taken_at_once(optimizer)
    finally:
        dlpack._describe.cache_clear()


@pytest.mark.parametrize("other", [("python", ()), ("torch", ())])
def test_untested_versions_take_the_general_way(monkeypatch, other):
    monkeypatch.setitem(dlpack.TESTED, *other)
    dlpack._describe.cache_clear()
    try:
        _, optimizer = made()
        assert not taken_at_once(optimizer)
        optimizer.step()
    finally:
        dlpack._describe.cache_clear()


def test_a_build_without_the_gil_takes_the_general_way(monkeypatch):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert not dlpack.is_tested()


@pytest.mark.parametrize(("name", "word"), [("cpu", 1), ("cuda:0", 2), ("cuda:3", 2 + 3 * 2**32), ("meta", None)])
def test_devices_as_dlpack_writes_them(name, word):
    """DLPack's DLDevice: an int32 of the type (kDLCPU 1, kDLCUDA 2), and an int32 of the index."""
    assert dlpack._device(torch.device(name)) == word


def test_amds_devices_are_left_to_the_general_way(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert dlpack._device(torch.device("cuda:0")) is None


def test_a_tensor_on_another_device_than_the_first_parameters_is_noticed(monkeypatch):
    params, optimizer = made(shapes=[(3,)])
    monkeypatch.setattr(dlpack, "_device", lambda device: 2)
    assert located(params, optimizer) is None
