"""Checks, run in several processes: a run is killed, and goes on from its last checkpoint elsewhere.

The gradients are given, so that every number of processes has the same: what a run does is then known up
to the rounding of its own steps, and two runs end within the sum of their steps' bounds of each other.
"""

import os
import signal
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from checks_layouts import fill
from checks_wrappers import fsdp, model
from lockstep import Lockstep, whole
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh

from setadam_torch import SETAdam

STEPS, EVERY, KILLED_AT = 50, 10, 27
ROOT = Path(os.environ["SETADAM_RESUME"])  # what one run leaves for another


def _fresh():
    net = fsdp(model(), init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = SETAdam(net.parameters(), lr=0.01, weight_decay=0.01, decoupled_weight_decay=True)
    return net, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


def _train(net, optimizer, scheduler, steps, run=None):
    params = list(net.parameters())
    for t in steps:
        fill(params, t)
        (run or optimizer).step()
        scheduler.step()
        yield t + 1


def _state(net, optimizer, scheduler):
    weights, moments = get_state_dict(net, optimizer)
    return {"weights": weights, "moments": moments, "schedule": scheduler.state_dict()}


def killed(_):
    """Writes a checkpoint every ten steps. One process is killed between two of them."""
    net, optimizer, scheduler = _fresh()
    for t in _train(net, optimizer, scheduler, range(STEPS)):
        if t % EVERY == 0:
            dcp.save(_state(net, optimizer, scheduler), checkpoint_id=ROOT / "killed" / f"step{t}")
        if t == KILLED_AT and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def uninterrupted(_):
    net, optimizer, scheduler = _fresh()
    run = Lockstep(optimizer, bounds=True)
    for t in _train(net, optimizer, scheduler, range(STEPS), run):
        if t == KILLED_AT // EVERY * EVERY:
            run.bounds.clear()  # what comes later is what a resumed run may differ by
    _save(ROOT / "uninterrupted.npz", net, optimizer, run)


def resumed(_):
    net, optimizer, scheduler = _fresh()
    checkpoints = sorted(int(path.name.removeprefix("step")) for path in (ROOT / "killed").glob("step*"))
    assert checkpoints == [10, 20]
    state = _state(net, optimizer, scheduler)
    dcp.load(state, checkpoint_id=ROOT / "killed" / f"step{checkpoints[-1]}")
    set_state_dict(net, optimizer, model_state_dict=state["weights"], optim_state_dict=state["moments"])
    scheduler.load_state_dict(state["schedule"])
    assert {int(entry["step"]) for entry in optimizer.state.values()} == {20}
    run = Lockstep(optimizer, bounds=True)
    list(_train(net, optimizer, scheduler, range(checkpoints[-1], STEPS), run))
    _save(ROOT / f"resumed{dist.get_world_size()}.npz", net, optimizer, run)


def _save(path, net, optimizer, run):
    arrays = {
        name: (whole(p), whole(optimizer.state[p]["exp_avg"]), whole(optimizer.state[p]["exp_avg_sq"]))
        for name, p in net.named_parameters()
    }
    if dist.get_rank() == 0:
        bounds = {name: np.asarray(run.bounds[p]) for name, p in net.named_parameters()}
        np.savez(path, **{f"{n}/{i}": x for n, xs in arrays.items() for i, x in enumerate((*xs, bounds[n]))})
