"""Beside torch.optim.Adam: whatever goes wrong goes wrong at the same moment, with the same kind of error,
and whatever torch ships to drive an optimizer drives ours.
"""

import importlib.util
import inspect
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from setadam_torch import SETAdam

PEERS = (torch.optim.Adam, SETAdam)
META = {"device": "meta"}  # a second device that every machine has


def leaf(*shape, **kwargs):
    p = torch.ones(*shape, **kwargs).requires_grad_()
    p.grad = torch.ones_like(p)
    return p


def moment_of_error(kind, scenario):
    """("making" or "stepping", the error), or (None, None)."""
    moment = ["making"]
    try:
        optimizer = scenario(kind, moment)
        moment[0] = "stepping"
        optimizer.step()
    except Exception as error:
        return moment[0], error
    return None, None


def making(*params, **options):
    return lambda kind, moment: kind(list(params), **options)


def spoiled(spoil, *shape):
    """A step with the optimizer and its parameter as `spoil` leaves them."""

    def scenario(kind, moment):
        p = leaf(*(shape or (3,)))
        optimizer = kind([p])
        moment[0] = "stepping"
        spoil(p, optimizer)
        return optimizer

    return scenario


def second_device(p, optimizer):
    optimizer.step()
    entry = optimizer.state[p]
    entry["exp_avg"] = entry["exp_avg"].to("meta")


SCENARIOS = {
    "nothing wrong": making(leaf(3)),
    "no parameters": making(),
    "not an iterable": lambda kind, moment: kind(1.0),
    "a tensor, not a list": lambda kind, moment: kind(leaf(3)),
    "not a tensor": making(1.0),
    "a non-leaf parameter": making(leaf(3) * 2),
    "the same parameter in two groups": (
        lambda kind, moment: (lambda p: kind([{"params": [p]}, {"params": [p]}]))(leaf(3))
    ),
    "lr negative": making(leaf(3), lr=-1.0),
    "lr NaN": making(leaf(3), lr=math.nan),
    "lr a matrix": making(leaf(3), lr=torch.ones(2, 2)),
    "beta1 one": making(leaf(3), betas=(1.0, 0.9)),
    "beta1 negative": making(leaf(3), betas=(-0.1, 0.9)),
    "beta2 NaN": making(leaf(3), betas=(0.9, math.nan)),
    "eps negative": making(leaf(3), eps=-1e-8),
    "eps NaN": making(leaf(3), eps=math.nan),
    "weight decay negative": making(leaf(3), weight_decay=-0.1),
    "weight decay NaN": making(leaf(3), weight_decay=math.nan),
    "a sparse gradient": spoiled(lambda p, o: setattr(p, "grad", p.grad.to_sparse())),
    "a state on another device": spoiled(second_device),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_error_at_the_same_moment(name):
    (their_moment, theirs), (our_moment, ours) = (moment_of_error(kind, SCENARIOS[name]) for kind in PEERS)
    assert our_moment == their_moment
    assert (ours is None) == (name == "nothing wrong")
    assert type(ours) is type(theirs)


def test_errors_of_torch_that_are_not_ours():
    """Where we refuse what torch.optim.Adam takes: infinite numbers, and a NaN that comes later."""
    for options in ({"lr": math.inf}, {"weight_decay": math.inf}, {"eps": math.inf}):
        torch.optim.Adam([leaf(3)], **options)
        with pytest.raises(ValueError, match="must be finite"):
            SETAdam([leaf(3)], **options)
    p = leaf(3)
    optimizer = SETAdam([p])
    optimizer.param_groups[0]["lr"] = math.nan
    with pytest.raises(ValueError, match="lr must be finite"):
        optimizer.step()
    assert torch.equal(p, torch.ones(3))


def test_gradients_of_another_kind_are_refused_by_torch_itself():
    """Shape, dtype and device of p.grad are checked where it is assigned, for any optimizer."""
    for wrong in (torch.ones(4), torch.ones(3, dtype=torch.float64), torch.ones(3, **META)):
        with pytest.raises((RuntimeError, TypeError)):
            leaf(3).grad = wrong


@pytest.mark.parametrize("kind", PEERS)
def test_parameters_on_several_devices(kind):
    """In one group: each layer is stepped where it is."""
    here, there = leaf(3), leaf(3, **META)
    optimizer = kind([here, there])
    optimizer.step()
    assert optimizer.state[there]["exp_avg"].device.type == "meta"
    assert not torch.equal(here, torch.ones(3))


def schedulers():
    """Every scheduler class that torch ships, with the least that it needs."""
    needs = {
        "LambdaLR": {"lr_lambda": lambda i: 1 / (1 + i)},
        "MultiplicativeLR": {"lr_lambda": lambda i: 0.9},
        "StepLR": {"step_size": 1},
        "MultiStepLR": {"milestones": [1, 2]},
        "ConstantLR": {"total_iters": 2},
        "LinearLR": {},
        "ExponentialLR": {"gamma": 0.9},
        "PolynomialLR": {},
        "CosineAnnealingLR": {"T_max": 5},
        "CosineAnnealingWarmRestarts": {"T_0": 3},
        "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1},  # cycles betas, too
        "OneCycleLR": {"max_lr": 0.1, "total_steps": 9},
        "ReduceLROnPlateau": {"patience": 0},
        "SequentialLR": None,
        "ChainedScheduler": None,
        "SWALR": {"swa_lr": 0.05},
    }
    found = {
        name
        for name, x in vars(lr_scheduler).items()
        if inspect.isclass(x) and issubclass(x, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    return needs, found - {"LRScheduler"} | {"SWALR"}


def make_scheduler(name, optimizer, needs):
    if name in ("SequentialLR", "ChainedScheduler"):
        parts = [lr_scheduler.ExponentialLR(optimizer, 0.9), lr_scheduler.ExponentialLR(optimizer, 0.5)]
        if name == "ChainedScheduler":
            return lr_scheduler.ChainedScheduler(parts)
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])
    home = torch.optim.swa_utils if name == "SWALR" else lr_scheduler
    return getattr(home, name)(optimizer, **needs[name])


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # torch 2.7's own call in SequentialLR
@pytest.mark.parametrize("name", sorted(schedulers()[1]))
def test_every_scheduler(name):
    """The rates and betas that it sets are those of Adam, and the step uses them."""
    needs, _ = schedulers()
    runs = []
    for kind in PEERS:
        optimizer = kind([leaf(3)], lr=0.1)
        scheduler, seen = make_scheduler(name, optimizer, needs), []
        for _ in range(5):
            optimizer.step()
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]))
        runs.append(seen)
    assert runs[0] == runs[1]
    assert len(set(runs[1])) > 1


@pytest.mark.filterwarnings("ignore")  # FSDP1 is deprecated, and says so in several ways
@pytest.mark.parametrize("use_orig_params", [True, False])
def test_a_model_wrapped_by_fsdp1_is_refused(tmp_path, use_orig_params):
    import torch.distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        model = FullyShardedDataParallel(
            nn.Linear(4, 3), use_orig_params=use_orig_params, device_id=torch.device("cpu")
        )
        with pytest.raises(TypeError, match="FSDP"):
            SETAdam(model.named_parameters())
    finally:
        dist.destroy_process_group()


def test_a_resumed_run_of_the_example_is_the_same(monkeypatch, capsys):
    """examples/torch_transformer.py: bfloat16, a schedule, clipping, a checkpoint; it compares the bits."""
    path = Path(__file__).parents[2] / "examples" / "torch_transformer.py"
    spec = importlib.util.spec_from_file_location("torch_transformer", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(sys, "argv", ["torch_transformer.py", "--steps", "12", "--check-resume"])
    example.main()
    assert "equals the uninterrupted one bit for bit" in capsys.readouterr().out
