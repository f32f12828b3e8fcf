"""What callers hand over in good faith, and torch.optim.Adam takes; and what is refused with a word that helps."""

import pickle
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from setadam_torch import SETAdam, load_neutral, to_neutral

PEERS = pytest.mark.parametrize("kind", [torch.optim.Adam, SETAdam])
PATHS = pytest.mark.parametrize("options", [{}, {"foreach": True}, {"capturable": True}, {"foreach": False}], ids=str)


def leaf(*shape, **kwargs):
    p = nn.Parameter(torch.ones(*shape, **kwargs))
    p.grad = torch.full_like(p, 0.5)
    return p


def stepped(p, **options):
    SETAdam([p], **options).step()
    return p.detach()


@PATHS
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_an_lr_of_one_element(options, shape):
    expected = stepped(leaf(3), lr=torch.tensor(0.25), **options)
    lr = torch.full(shape, 0.25)
    optimizer = SETAdam([p := leaf(3)], lr=lr, **options)
    optimizer.step()
    assert torch.equal(p, expected)
    assert optimizer.param_groups[0]["lr"] is lr  # schedulers and graphs write to it
    lr.fill_(0.0)
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, before)


class Pair:
    """A sequence of a configuration library: neither list nor tuple."""

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return (0.5, 0.75)[i]

    def __iter__(self):
        return iter((0.5, 0.75))


@PATHS
@pytest.mark.parametrize(
    "betas", [[0.5, 0.75], np.array([0.5, 0.75]), np.array([0.5, 0.75], np.float32), Pair()], ids=type
)
def test_betas_are_any_two_numbers(options, betas):
    assert torch.equal(stepped(leaf(3), betas=betas, **options), stepped(leaf(3), betas=(0.5, 0.75), **options))


def test_betas_of_an_array_do_not_round_in_its_dtype():
    betas = np.float32([0.3, 0.9])
    assert torch.equal(stepped(leaf(3), betas=betas), stepped(leaf(3), betas=tuple(map(float, betas))))
    assert all(type(beta) is float for beta in SETAdam([leaf(3)], betas=betas).param_groups[0]["betas"])


@pytest.mark.parametrize("betas", [0.9, (0.9,), (0.9, 0.9, 0.9), "ab", np.ones((2, 2)), {"a": 1}, (0.9, None), None])
def test_betas_that_are_none(betas):
    with pytest.raises((ValueError, TypeError), match="beta"):
        SETAdam([leaf(3)], betas=betas)


@PEERS
def test_state_that_is_forgotten(kind):
    optimizer = kind([p := leaf(3)])
    optimizer.step()
    optimizer.__setstate__({"state": defaultdict(dict)})
    assert not optimizer.state
    optimizer.step()
    assert optimizer.state[p]["step"] == 1


@PEERS
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}], ids=str)
def test_deferred_initialization(kind, options):
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    optimizer = kind(model.parameters(), **options)
    model.to_empty(device="cpu")
    optimizer = kind(model.parameters(), **options)
    model.weight.data.fill_(1.0)
    model.weight.grad = torch.ones(2, 3)
    optimizer.step()
    assert bool((model.weight < 1).all())


@PATHS
def test_a_step_of_parameters_without_values(options):
    p = leaf(3, device="meta")
    optimizer = SETAdam([p], **options)
    optimizer.step()
    assert optimizer.state[p]["exp_avg"].shape == (3,)
    assert optimizer.state[p]["exp_avg"].is_meta


@PATHS
@pytest.mark.parametrize("capturable", [False, True])
def test_a_step_under_fake_tensors(options, capturable):
    """As memory estimators take one: shapes come out, and nothing is computed."""
    with FakeTensorMode():
        p = leaf(3)
        optimizer = SETAdam([p], **({"capturable": capturable} | options))
        for _ in range(2):
            optimizer.step()
        assert optimizer.state[p]["exp_avg"].shape == (3,)


@PATHS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("size", [5, 70_000])
def test_torchs_default_device_is_not_where_a_step_computes(options, dtype, size):
    results = []
    for device in ("cpu", "meta"):
        p = leaf(size, dtype=dtype)
        torch.set_default_device(device)
        try:
            optimizer = SETAdam([p], **options)
            optimizer.step()
            load_neutral(optimizer, to_neutral(optimizer))
            optimizer.load_state_dict(optimizer.state_dict())
            optimizer.step()
        finally:
            torch.set_default_device(None)
        results.append(p.detach())
    assert torch.equal(*results)


@pytest.mark.parametrize("axes", [None, (0,), (1,), (-1,)])
def test_a_lazy_layer(axes):
    model = nn.LazyLinear(4)
    optimizer = SETAdam([model.weight], layer_axes=axes)
    with torch.no_grad():
        model(torch.ones(2, 3))
    model(torch.ones(2, 3)).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()
    assert bool((model.weight < before).all())


def test_axes_that_a_lazy_layer_turns_out_not_to_have():
    model = nn.LazyLinear(4)
    optimizer = SETAdam([("weight", model.weight)], layer_axes=(2,))
    model(torch.ones(2, 3)).sum().backward()
    with pytest.raises(ValueError, match="weight: layer_axes must be None or distinct axes of an array with 2 axes"):
        optimizer.step()


@pytest.mark.parametrize(
    ("key", "meant"),
    [("Lr", "lr"), ("LR", "lr"), ("beta", "betas"), ("weight-decay", "weight_decay"), ("layer_axis", "layer_axes")],
)
def test_a_misspelt_option_of_a_group(key, meant):
    optimizer = SETAdam([leaf(3)])
    with pytest.raises(TypeError, match=f"no option '{key}': did you mean '{meant}'"):
        optimizer.add_param_group({"params": [leaf(2)], key: 0.5})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(TypeError, match="did you mean"):
        SETAdam([{"params": [leaf(3)], key: 0.5}])


def test_what_schedulers_and_trainers_keep_in_a_group():
    kept = {"name": "decay", "initial_lr": 1.0, "lr_scale": 0.5, "max_lr": 1.0, "no_weight_decay": True, "layer_id": 3}
    optimizer = SETAdam([{"params": [leaf(3)], **kept}])
    optimizer.step()
    assert kept.items() <= optimizer.param_groups[0].items()


def test_entries_of_a_wrapper_in_the_state():
    optimizer = SETAdam([p := leaf(3)])
    optimizer.state[p]["of_a_wrapper"] = 7
    optimizer.step()
    assert optimizer.state[p]["of_a_wrapper"] == 7
    assert optimizer.state[p]["step"] == 1
    optimizer.load_state_dict(optimizer.state_dict())
    assert torch.equal(pickle.loads(pickle.dumps(optimizer)).param_groups[0]["params"][0], p)


def test_half_a_state_is_an_error():
    optimizer = SETAdam([p := leaf(3)])
    optimizer.step()
    del optimizer.state[p]["exp_avg"]
    with pytest.raises(
        KeyError, match=r"parameter 0 of group 0: its state must have exp_avg, got \['exp_avg_sq', 'step'\]"
    ):
        optimizer.step()


def test_amsgrad_has_no_counterpart():
    for wrong in (lambda: SETAdam([leaf(3)], amsgrad=True), lambda: SETAdam([{"params": [leaf(3)], "amsgrad": True}])):
        with pytest.raises(ValueError, match="amsgrad must be False, got True: SET-Adam has no counterpart"):
            wrong()
    optimizer = SETAdam([{"params": [leaf(3)], "amsgrad": False}], amsgrad=False)
    assert "amsgrad" not in optimizer.param_groups[0]


def test_nothing_is_made_before_all_is_checked():
    good, bad = leaf(3), leaf(3)
    optimizer = SETAdam([{"params": [good]}, {"params": [bad]}])
    bad.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="parameter 0 of group 1: it has a sparse gradient"):
        optimizer.step()
    assert not optimizer.state
    assert torch.equal(good, torch.ones(3))


@PATHS
def test_a_count_of_another_dtype_is_counted_in_itself(options):
    p = leaf(3)
    optimizer = SETAdam([p], **options)
    optimizer.step()
    for dtype in (torch.int64, torch.float32, torch.int32):
        count = optimizer.state[p]["step"] = torch.tensor(1, dtype=dtype)
        optimizer.step()
        assert optimizer.state[p]["step"] is count
        assert (count.dtype, int(count)) == (dtype, 2)


class Watching(TorchDispatchMode):
    """As profilers and checkers of memory do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@PATHS
def test_a_step_that_is_watched(options):
    expected = stepped(leaf(3), **options)
    with Watching():
        assert torch.equal(stepped(leaf(3), **options), expected)


class Named(torch.Tensor):
    """Hooks into every function, and leaves the arithmetic as it is."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


@PATHS
def test_a_class_with_a_hook_of_its_own(options):
    p = torch.ones(3).as_subclass(Named).requires_grad_()
    p.grad = torch.full((3,), 0.5).as_subclass(Named)
    assert type(stepped(p, **options)) is Named
    assert torch.equal(p.as_subclass(torch.Tensor), stepped(leaf(3), **options))
