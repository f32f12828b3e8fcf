"""Study 4: the paper's own tasks. They need a GPU and the data.

    python paper.py resnet34-cifar10 --data ~/data --optimizer SET-Adam --precision bf16
    python paper.py multi30k --data ~/data/multi30k --optimizer AdaBelief --eps 1e-16

Each command is one run. Every epoch adds a line to a CSV file and writes a checkpoint. The same command continues from
the checkpoint, with the same result as an uninterrupted run. For Multi30k the paper reports 69.19 % validation accuracy
with SET-Adam and 66.90 % with AdaBelief. Its exact recipe is not repeated here, so set epochs,
batch and rates to compare.
"""

import argparse
import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import optimizers
import paper_data
import paper_models
import torch
from rich.progress import track
from torch import nn

TASKS = ("vgg11-cifar10", "vgg11-cifar100", "resnet34-cifar10", "resnet34-cifar100", "multi30k")


class Task(Protocol):
    """A model and its data. A batch is whatever `loss` takes."""

    model: nn.Module
    steps: int  # batches in an epoch

    def batches(self, epoch: int) -> Iterator[Any]: ...
    def loss(self, batch: Any) -> torch.Tensor: ...
    def accuracy(self) -> float: ...


class Classification:
    """CIFAR with the usual augmentation: shifted by up to four pixels, and mirrored half of the time."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        classes = 100 if name.endswith("100") else 10
        train, validation = paper_data.cifar(options.data, classes)
        self.device, self.batch, self.seed = options.device, options.batch, options.seed
        scaled = train.x.double() / 255
        self.mean, self.std = (f(scaled, dim=(0, 2, 3)).float()[:, None, None] for f in (torch.mean, torch.std))
        self.train, self.validation = train, validation
        self.steps = math.ceil(len(train.x) / self.batch)
        make = paper_models.vgg11 if name.startswith("vgg11") else paper_models.resnet34
        self.model = make(classes).to(self.device)

    def batches(self, epoch: int) -> Iterator[paper_data.Images]:
        random = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        for part in torch.randperm(len(self.train.x), generator=random).split(self.batch):
            x = nn.functional.pad(self.train.x[part], (4, 4, 4, 4))
            shift = torch.randint(0, 9, (len(part), 2), generator=random)
            rows = (shift[:, :1] + torch.arange(32))[:, None, :, None]
            columns = (shift[:, 1:] + torch.arange(32))[:, None, None, :]
            x = x[torch.arange(len(part))[:, None, None, None], torch.arange(3)[None, :, None, None], rows, columns]
            mirrored = torch.rand(len(part), generator=random) < 0.5
            x[mirrored] = x[mirrored].flip(3)
            yield paper_data.Images(x, self.train.y[part])

    def _scores(self, x: torch.Tensor) -> torch.Tensor:
        return self.model((((x.float() / 255) - self.mean) / self.std).to(self.device))

    def loss(self, batch: paper_data.Images) -> torch.Tensor:
        return nn.functional.cross_entropy(self._scores(batch.x), batch.y.to(self.device))

    def accuracy(self) -> float:
        right = [
            (self._scores(x).argmax(1).cpu() == y).sum().item()
            for x, y in zip(self.validation.x.split(1000), self.validation.y.split(1000), strict=True)
        ]
        return 100 * sum(right) / len(self.validation.y)


class Translating:
    """Multi30k, German to English; accuracy is that of the next word, given the right words before it."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.data = paper_data.multi30k(options.data)
        self.device, self.batch, self.seed = options.device, options.batch, options.seed
        self.steps = math.ceil(len(self.data.train.source) / self.batch)
        self.model = paper_models.Translator(self.data.source_words, self.data.target_words).to(self.device)

    def batches(self, epoch: int) -> Iterator[paper_data.Sentences]:
        random = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        train = self.data.train
        for part in torch.randperm(len(train.source), generator=random).split(self.batch):
            yield paper_data.Sentences(train.source[part], train.target[part])

    def _scores(self, batch: paper_data.Sentences) -> tuple[torch.Tensor, torch.Tensor]:
        source, target = batch.source.to(self.device), batch.target.to(self.device)
        return self.model(source, target[:, :-1]), target[:, 1:]

    def loss(self, batch: paper_data.Sentences) -> torch.Tensor:
        scores, due = self._scores(batch)
        return nn.functional.cross_entropy(scores.flatten(0, 1), due.flatten(), ignore_index=paper_data.PAD)

    def accuracy(self) -> float:
        right = total = 0
        parts = zip(*(x.split(self.batch) for x in self.data.validation), strict=True)
        for source, target in parts:
            scores, due = self._scores(paper_data.Sentences(source, target))
            words = due != paper_data.PAD
            right += int((scores.argmax(-1) == due)[words].sum())
            total += int(words.sum())
        return 100 * right / total


def main(arguments: list[str] | None = None) -> None:
    """Train, from the checkpoint if there is one."""
    options = _options(arguments)
    torch.manual_seed(options.seed)
    task: Task = (Translating if options.task == "multi30k" else Classification)(options.task, options)
    settings = {name: x for name in ("lr", "eps", "weight_decay") if (x := getattr(options, name)) is not None}
    optimizer = optimizers.make(options.optimizer, task.model.named_parameters(), **settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    name = f"{options.task}-{options.optimizer}-seed{options.seed}"
    checkpoint, table = options.results / f"{name}.pt", options.results / f"{name}.csv"
    # What the run is; a checkpoint of another run is not gone on from.
    recipe = {**settings, "epochs": options.epochs, "batch": options.batch, "precision": options.precision}
    parts = {"model": task.model, "optimizer": optimizer, "schedule": schedule}
    rows = _resume(checkpoint, parts, recipe)
    for epoch in range(len(rows), options.epochs):
        # Dropout too depends on seed and epoch alone, not on what ran before in this process.
        torch.manual_seed(1_000_003 * options.seed + epoch)
        rows.append({"epoch": epoch + 1, **_epoch(task, optimizer, epoch, options)})
        schedule.step()
        _save(checkpoint, table, parts, recipe, rows)
        print(f"epoch {epoch + 1}: loss {rows[-1]['loss']:.4f}, validation accuracy {rows[-1]['accuracy']:.2f} %")


def _epoch(task: Task, optimizer: torch.optim.Optimizer, epoch: int, options: argparse.Namespace) -> dict[str, float]:
    low = torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.precision == "bf16")
    task.model.train()
    losses = []
    for batch in track(task.batches(epoch), description=f"epoch {epoch + 1}", total=task.steps):
        optimizer.zero_grad()
        with low:
            loss = task.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    task.model.eval()
    with torch.no_grad(), low:
        return {"loss": torch.stack(losses).double().mean().item(), "accuracy": task.accuracy()}


def _resume(checkpoint: Path, parts: dict[str, Any], recipe: dict[str, Any]) -> list[dict[str, float]]:
    if not checkpoint.exists():
        return []
    saved = torch.load(checkpoint, weights_only=True)
    if saved["recipe"] != recipe:
        raise SystemExit(
            f"{checkpoint} is of a run with {json.dumps(saved['recipe'])}, this one has {json.dumps(recipe)}: "
            "move it away, or name another folder with --results"
        )
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return saved["rows"]  # type: ignore[no-any-return]


def _save(checkpoint: Path, table: Path, parts: dict[str, Any], recipe: dict[str, Any], rows: Any) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    partial = checkpoint.with_suffix(".part")  # an interruption leaves the old checkpoint or the new one
    torch.save({**{name: part.state_dict() for name, part in parts.items()}, "recipe": recipe, "rows": rows}, partial)
    partial.replace(checkpoint)
    with table.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    files = "the folder that holds cifar-10-python.tar.gz or cifar-100-python.tar.gz, or {train,val}.{de,en}[.gz]"
    parser.add_argument("--data", type=Path, required=True, help=files)
    parser.add_argument("--optimizer", default="SET-Adam", choices=("SET-Adam", "Adam", "AdamW", "AdaBelief", "SGD"))
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--eps", type=float, help="as the optimizer spells it: SET-Adam's is under the root")
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "paper")
    options = parser.parse_args(arguments)
    if options.optimizer == "SGD" and options.eps is not None:
        parser.error("--eps has no meaning for SGD")
    return options


if __name__ == "__main__":
    main()
