"""Train a small transformer block that FSDP2 shards over processes, on a laptop's CPU.

    torchrun --nproc-per-node 2 examples/torch_fsdp2.py
    torchrun --nproc-per-node 3 examples/torch_fsdp2.py --resume     # continues, with another number of processes

Each process has its rows of every parameter, gradient and moment. γ and the minimum are still those of whole layers:
SETAdam gathers four numbers for each layer and process, in one collective per step.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from setadam_torch import SETAdam

WIDTH, LENGTH, WORDS = 32, 12, 11


class Model(nn.Module):
    """One encoder layer that learns to say a sequence backwards: at each place, a score for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        self.block = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.words(x) + self.places).flatten(0, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--folder", type=Path, default=Path("runs/fsdp2"))
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    dist.init_process_group("gloo")  # torchrun sets the addresses of the other processes
    torch.manual_seed(0)
    model = Model()
    fully_shard(model.block)
    fully_shard(model)  # before the optimizer, which needs the sharded parameters
    optimizer = SETAdam(model.named_parameters(), lr=3e-3)

    def state() -> dict[str, object]:
        weights, moments = get_state_dict(model, optimizer)
        return {"weights": weights, "moments": moments}

    if args.resume:
        saved = state()
        dcp.load(saved, checkpoint_id=args.folder)
        set_state_dict(model, optimizer, model_state_dict=saved["weights"], optim_state_dict=saved["moments"])

    data = torch.Generator().manual_seed(dist.get_rank())  # each process has its own examples
    for i in range(args.steps):
        x = torch.randint(WORDS, (32, LENGTH), generator=data)
        loss = nn.functional.cross_entropy(model(x), x.flip(1).flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if i % 100 == 0 or i == args.steps - 1:
            dist.all_reduce(loss, dist.ReduceOp.AVG)
            gamma = optimizer.layer_statistics()["head.weight"]["gamma"]  # a collective: call it in every process
            if dist.get_rank() == 0:
                print(f"step {i:4d}  loss {loss.item():.4f}  γ of head.weight {gamma:.3f}", flush=True)

    dcp.save(state(), checkpoint_id=args.folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # DTensor's caches keep gloo's threads alive. A thread that releases its last tensor while Python exits aborts the
    # process (torch 2.13), so this skips Python's own exit. NCCL does not need it.
    sys.stdout.flush()
    os._exit(0)
