"""Train a small character transformer on the docstrings of Python's standard library with SET-Adam.

bfloat16 parameters (float32 moments), warm-up and linear decay, gradient clipping, a checkpoint.
`--check-resume` stops half-way, resumes from the file with new objects, and checks that the result is equal to the
uninterrupted run, bit for bit.
"""

import argparse
import collections
import inspect
import pathlib
import random
import statistics
import tempfile
from typing import Any

import torch
from rich.progress import track
from torch import nn

from setadam_torch import SETAdam

CONTEXT, BATCH, WIDTH = 64, 8, 64


def corpus() -> torch.Tensor:
    """Text that ships with Python, as bytes."""
    modules = (argparse, collections, inspect, pathlib, random, statistics)
    texts = [inspect.getdoc(x) or "" for module in modules for x in (module, *vars(module).values())]
    return torch.tensor(list("\n".join(texts).encode()), dtype=torch.long)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(256, WIDTH)
        self.place = nn.Embedding(CONTEXT, WIDTH)
        block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=torch.bfloat16)
        return self.head(self.blocks(self.token(x) + self.place.weight[: x.shape[1]], mask=mask))


def build(steps: int) -> tuple[Transformer, SETAdam, Any]:
    torch.manual_seed(0)
    model = Transformer().to(torch.bfloat16)
    optimizer = SETAdam(model.named_parameters(), lr=2e-3, weight_decay=0.01, decoupled_weight_decay=True)
    schedule = lambda i: min((i + 1) / 20, max(0.0, 1 - i / steps))  # noqa: E731
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)


def train(run: tuple[Transformer, SETAdam, Any], first: int, last: int) -> float:
    """Steps first to last; the batch of a step depends only on the step's number."""
    model, optimizer, scheduler = run
    text, loss = corpus(), torch.tensor(0.0)
    for i in track(range(first, last), description=f"steps {first} to {last}"):
        start = torch.randint(len(text) - CONTEXT, (BATCH,), generator=torch.Generator().manual_seed(i))
        window = text[start[:, None] + torch.arange(CONTEXT + 1)]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(window[:, :-1]).float().flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    return loss.item()


def save(run: tuple[Transformer, SETAdam, Any], path: pathlib.Path) -> None:
    torch.save([part.state_dict() for part in run], path)


def load(run: tuple[Transformer, SETAdam, Any], path: pathlib.Path) -> None:
    for part, state in zip(run, torch.load(path, weights_only=True), strict=True):
        part.load_state_dict(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--check-resume", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))

    whole = build(args.steps)
    print(f"loss of the first batch: {train(whole, 0, 1):.3f}")
    print(f"loss of the last batch:  {train(whole, 1, args.steps):.3f}")
    if args.check_resume:
        with tempfile.TemporaryDirectory() as folder:
            half, path = args.steps // 2, pathlib.Path(folder) / "checkpoint.pt"
            interrupted = build(args.steps)
            train(interrupted, 0, half)
            save(interrupted, path)
            resumed = build(args.steps)
            load(resumed, path)
            train(resumed, half, args.steps)
        for (name, a), b in zip(whole[0].named_parameters(), resumed[0].parameters(), strict=True):
            if not torch.equal(a.view(torch.int16), b.view(torch.int16)):
                raise SystemExit(f"the resumed run differs in {name}")
        print("the resumed run equals the uninterrupted one bit for bit")


if __name__ == "__main__":
    main()
