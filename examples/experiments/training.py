"""One training run: a task, an optimizer with its settings, a seed, and the result."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import data
import models
import optimizers
import torch
from torch import nn


class Run(NamedTuple):
    """Everything that determines a run. Hashable and ordered, so that it can be a key."""

    task: str
    optimizer: str
    settings: tuple[tuple[str, Any], ...]  # of the optimizer, sorted by name
    seed: int


@functools.cache
def _data(name: str, sha256: str | None) -> data.Data:
    return data.load(name, sha256)


def train(
    run: Run,
    task: dict[str, Any],
    training: dict[str, Any],
    watch: Callable[[int, Any], None] | None = None,
) -> dict[str, float]:
    """Accuracies in percent and losses at the end of the run; NaN losses where it diverged.

    watch, if given, is called with the number of steps taken and the optimizer after each step.
    """
    torch.set_num_threads(1)
    sets = _data(task["data"], task.get("sha256"))
    torch.manual_seed(run.seed)
    classes = 1 + max(int(part.y.max()) for part in sets)
    model = models.build(task["model"], sets.train.x.shape[1], classes)
    optimizer = optimizers.make(run.optimizer, model.named_parameters(), **dict(run.settings))
    batch, n = task.get("batch", training["batch"]), len(sets.train.x)
    steps = task["epochs"] * math.ceil(n / batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start, taken, loss = time.perf_counter(), 0, torch.tensor(math.nan)
    for _ in range(task["epochs"]):
        for part in torch.randperm(n).split(batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(sets.train.x[part]), sets.train.y[part])
            if not torch.isfinite(loss):  # it will not come back; its accuracy is what it is
                return {**_measure(model, sets), "steps": taken, "seconds": time.perf_counter() - start}
            loss.backward()
            optimizer.step()
            schedule.step()
            taken += 1
            if watch is not None:
                watch(taken, optimizer)
    return {**_measure(model, sets), "steps": taken, "seconds": time.perf_counter() - start}


@torch.no_grad()
def _measure(model: nn.Module, sets: data.Data) -> dict[str, float]:
    model.eval()
    found = {}
    for name, part in zip(sets._fields, sets, strict=True):
        scores = model(part.x)
        found[f"{name}_loss"] = nn.functional.cross_entropy(scores, part.y).item()
        found[f"{name}_accuracy"] = 100 * (scores.argmax(1) == part.y).double().mean().item()
    return found
