"""A step within the backward pass: an optimizer for each parameter, called by a hook as soon as its gradient is there.

docs/torch.md shows it. Backward passes of several threads run hooks at the same time, each in its own thread.
"""

import threading

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from setadam_torch import SETAdam

STEPS = 3
PATHS = pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}], ids=str)


class Tied(nn.Module):
    """A parameter that is used twice, one that is used once, and one of more than one block of the kernel."""

    def __init__(self):
        super().__init__()
        self.tokens, self.middle = nn.Embedding(2500, 64), nn.Linear(64, 64)  # 160,000 coordinates

    def forward(self, x):
        return self.middle(self.tokens(x)) @ self.tokens.weight.T


def model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return Tied().to(dtype)


def backward(model, step):
    text = torch.arange(6) * 7 + step
    nn.functional.cross_entropy(model(text), text).backward()


def attach(model, **options):
    """The optimizers, whose steps the next backward passes will take."""
    optimizers = {p: SETAdam([p], **options) for p in model.parameters()}

    def hook(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in optimizers:
        p.register_post_accumulate_grad_hook(hook)
    return list(optimizers.values())


def usual(model, **options):
    optimizer = SETAdam(model.parameters(), **options)
    for step in range(STEPS):
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()
    return list(model.parameters())


@PATHS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_is_that_of_a_step_afterwards(options, dtype):
    one = model(dtype=dtype)
    attach(one, weight_decay=0.1, **options)
    for step in range(STEPS):
        backward(one, step)
    other = usual(model(dtype=dtype), weight_decay=0.1, **options)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other, strict=True))


@PATHS
def test_no_two_gradients_live_at_one_time(options):
    one, alive = model(), []
    for p in one.parameters():
        p.register_post_accumulate_grad_hook(lambda _: alive.append(sum(q.grad is not None for q in one.parameters())))
    attach(one, **options)
    backward(one, 0)
    assert alive == [1] * len(list(one.parameters()))
    assert all(p.grad is None for p in one.parameters())


def test_each_optimizer_has_a_scheduler_and_a_checkpoint():
    """Half of the run, into new objects, and the other half: as the whole run."""
    whole, half = model(), model()

    def scheduled(model):
        optimizers = attach(model, lr=0.01)
        return optimizers, [LambdaLR(optimizer, lambda step: 0.5**step) for optimizer in optimizers]

    def run(model, schedulers, steps):
        for step in steps:
            backward(model, step)
            for scheduler in schedulers:
                scheduler.step()

    run(whole, scheduled(whole)[1], range(4))
    optimizers, schedulers = scheduled(half)
    run(half, schedulers, range(2))
    resumed = model(seed=1)
    resumed.load_state_dict(half.state_dict())
    again = scheduled(resumed)
    for new, old in zip([*again[0], *again[1]], [*optimizers, *schedulers], strict=True):
        new.load_state_dict(old.state_dict())
    run(resumed, again[1], range(2, 4))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert again[0][0].param_groups[0]["lr"] == 0.01 * 0.5**4


@PATHS
def test_backward_passes_in_several_threads(options):
    """Each of a model of its own. The helpers of the kernel serve one of the steps at a time."""
    models, failures = [model(seed) for seed in range(4)], []
    start = threading.Barrier(len(models))

    def train(one):
        try:
            start.wait()
            for step in range(STEPS):
                backward(one, step)
        except BaseException as error:
            failures.append(error)

    for one in models:
        attach(one, **options)
    threads = [threading.Thread(target=train, args=(one,)) for one in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for seed, one in enumerate(models):
        assert all(torch.equal(p, q) for p, q in zip(one.parameters(), usual(model(seed), **options), strict=True))


def test_autograd_notices_a_step_on_a_value_that_it_still_needs():
    """x's gradient is there when the product with y has been gone through, and x's value is needed by no one; y's hook
    writes to z, of which the power's gradient has yet to be computed.
    """
    x, z = (torch.tensor([2.0, 3.0], requires_grad=True) for _ in "xz")
    optimizer = SETAdam([z])

    def hook(_):
        z.grad = torch.ones(2)
        optimizer.step()

    x.register_post_accumulate_grad_hook(hook)
    loss = ((z**3).exp() * 1e-20 + x).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_error_of_a_step_ends_the_backward_pass():
    one = model()
    attach(one)[0].param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr must be finite and ≥ 0, got -1"):
        backward(one, 0)
