"""FSDP2 over some devices, a process for each: the same parameters as without, and what a step launches.

python -m benchmarks.gpu.sharded --ranks 2 [--report FILE] [--device cpu]
"""

import argparse
import copy
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.profiler import ProfilerActivity, profile

from setadam_torch import SETAdam

DEPTHS = (4, 40)  # layers of which the launches of a step are counted
STEPS, LR = 3, 1e-2
KINDS = {"fused": {"fused": True}, "foreach": {"foreach": True}}


def network(layers: int) -> nn.Module:
    """Layers whose rows no number of ranks but 1 and 7 divides."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(7, 7) for _ in range(layers // 2)))


def train(model: nn.Module, optimizer: Any, batch: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()


def differing(whole: nn.Module, sharded: nn.Module) -> list[str]:
    """Parameters that are not the same as without sharding. γ is: its sums are in double. A gradient that is averaged
    over three ranks rounds otherwise, which moves a step of about LR by some units in its last place; a γ of a part
    alone moves it by several percent.
    """
    pairs = zip(whole.named_parameters(), sharded.parameters(), strict=True)
    close = [(name, torch.allclose(p, q.full_tensor(), rtol=1e-6, atol=1e-4 * LR)) for (name, p), q in pairs]
    return [name for name, is_close in close if not is_close]


def launches(optimizer: Any) -> int:
    """Kernels, copies and collectives of a step, on the device of this process."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        optimizer.step()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in seen.events())


def rank_main(rank: int, ranks: int, folder: str, device_type: str) -> None:
    """What one process does. The first one writes what it found."""
    if device_type == "cuda":
        torch.cuda.set_device(rank)
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = {"cuda": "nccl", "cpu": "gloo"}[device_type]
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    mesh, found = init_device_mesh(device_type, (ranks,)), {}
    for kind, options in KINDS.items():
        counts = []
        for depth in DEPTHS:
            whole = network(depth).to(device_type)
            model = copy.deepcopy(whole)
            fully_shard(model, mesh=mesh)
            batch = torch.ones(3, 7, device=device_type)
            optimizer = SETAdam(model.parameters(), lr=LR, **options)
            train(model, optimizer, batch, STEPS)
            train(whole, SETAdam(whole.parameters(), lr=LR, **options), batch, STEPS)
            if wrong := differing(whole, model):
                raise SystemExit(f"{kind}, {ranks} ranks: not the same as without FSDP2: {', '.join(wrong)}")
            counts.append(launches(optimizer) if device_type == "cuda" else None)
        found[kind] = counts
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings():
            torch.multiprocessing.spawn(rank_main, (asked.ranks, folder, asked.device), nprocs=asked.ranks)
        found = json.loads(Path(folder, "found.json").read_text())
    rows = [[kind, *("–" if n is None else str(n) for n in counts)] for kind, counts in found.items()]
    head = ["path", *(f"{n} layers" for n in DEPTHS)]
    print(*(" ".join(row) for row in (head, *rows)), sep="\n")
    if asked.report:
        table = {"title": f"launches of a step on each of {asked.ranks} ranks", "head": head, "rows": rows}
        asked.report.write_text(json.dumps({"ranks": asked.ranks, "launches": found, "tables": [table]}))


if __name__ == "__main__":
    main()
