"""Study 3: the angle between a layer's second moments and the all-ones vector, by kind of layer and depth.

S scales v down by the squared cosine of this angle, on the assumption that v is far from a constant vector in some
layers and close to it in others. γ = cos² is read from `SETAdam.layer_statistics()` at regular intervals.

    python angles.py [--jobs N] [--results DIR]
"""

import csv
import hashlib
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cli
import matplotlib.pyplot as plt
import models
import store
import tables
from torch import nn
from training import Run, train

COLORS = {
    "weight": "C0",
    "convolution": "C0",
    "attention": "C4",
    "position": "C5",
    "norm": "C2",
    "bias": "C1",
    "embedding": "C3",
}
Row = dict[str, Any]  # task, seed, settings, layer, kind, depth, size, step, degrees
Place = tuple[str, int, str]  # a run: task, seed, settings
Runs = dict[Place, list[Row]]


def kinds(model: nn.Module) -> dict[str, tuple[str, int, int]]:
    """For each parameter by name: the kind of layer, its place among the parameters, and d."""
    found: dict[str, tuple[str, int, int]] = {}
    for place, (name, param) in enumerate(model.named_parameters()):
        owner = model.get_submodule(name.rpartition(".")[0])
        leaf = name.rpartition(".")[2]
        norm = isinstance(owner, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d)
        kind = "norm" if norm else "bias" if leaf.endswith("bias") else "position" if leaf == "place" else "weight"
        if kind == "weight" and isinstance(owner, nn.Conv1d | nn.Conv2d):
            kind = "convolution"
        if kind == "weight" and isinstance(owner, nn.MultiheadAttention):
            kind = "attention"
        if isinstance(owner, nn.Embedding):
            kind = "embedding"
        found[name] = (kind, place, param.numel())
    return found


def settings_of(task: str) -> str:
    """A hash, in eight characters, of everything but the seed that determines the results of a task."""
    config = store.CONFIG
    decides = json.dumps([config["tasks"][task], config["training"], config["angles"]], sort_keys=True)
    return hashlib.sha256(decides.encode()).hexdigest()[:8]


def observe(task: str, seed: int, settings: str) -> list[Row]:
    """The angles of one training run, at regular intervals."""
    config = store.CONFIG
    how, every = config["tasks"][task], config["angles"]["every"]
    features = {"digits": 64, "mnist1d": 40}[how["data"]]
    layers = kinds(models.build(how["model"], features))
    run: Row = {"task": task, "seed": seed, "settings": settings}
    rows: list[Row] = []

    def look(step: int, optimizer: Any) -> None:
        if step != 1 and step % every:
            return
        for name, values in optimizer.layer_statistics().items():
            kind, depth, size = layers[name]
            degrees = math.degrees(math.acos(math.sqrt(min(1.0, values["gamma"]))))
            layer = {"layer": name, "kind": kind, "depth": depth, "size": size}
            rows.append({**run, **layer, "step": step, "degrees": round(degrees, 3)})

    train(Run(task, "SET-Adam", (("lr", config["angles"]["lr"]),), seed), how, config["training"], look)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and write CSV, table, plots and a sentence."""
    options = cli.parse(__doc__, arguments)
    file, seeds = options.results / "angles.csv", store.CONFIG["seeds"]
    tasks = options.tasks or store.CONFIG["compare"]["tasks"]
    runs = _read(file)
    wanted = [(task, seed, settings_of(task)) for task in tasks for seed in seeds]
    for run, rows in store.in_parallel(observe, [run for run in wanted if run not in runs], options.jobs, "training"):
        runs[run] = rows
        _write(file, runs)  # each run as it ends: an interrupted study goes on from here
    rows = [row for run in wanted for row in runs[run]]

    text = f"# Study 3: angles between v and the all-ones vector\n\n{tables.opening(__doc__)}\n"
    for task in tasks:
        mine = [row for row in rows if row["task"] == task]
        last = max(row["step"] for row in mine)
        table = []
        for layer in dict.fromkeys(row["layer"] for row in mine):
            of_layer = [row for row in mine if row["layer"] == layer]
            at = {step: [row["degrees"] for row in of_layer if row["step"] == step] for step in (1, last)}
            cells = [f"{tables.mean_std(at[step])}°" for step in (1, last)]
            gamma = statistics.mean(math.cos(math.radians(x)) ** 2 for x in at[last])
            table.append((layer, of_layer[0]["kind"], str(of_layer[0]["size"]), *cells, f"{gamma:.3f}"))
        header = ("layer, in order of depth", "kind", "d", "angle at step 1", f"at step {last}", "γ there")
        text += f"\n## {task}\n\n{tables.markdown(header, table)}\n{_said(mine, last)}\n"
    tables.write(options.results / "angles.md", text)
    _plot(options.results / "angles.svg", tasks, rows)


def _said(rows: Sequence[Row], last: int) -> str:
    end = [row for row in rows if row["step"] == last]
    by_kind = {k: [row["degrees"] for row in end if row["kind"] == k] for k in dict.fromkeys(r["kind"] for r in end)}
    spread = ", ".join(f"{kind} {min(x):.0f}°–{max(x):.0f}°" for kind, x in by_kind.items())
    # Spearman's correlation of angle and size: ranks, since neither is on a natural scale.
    from scipy.stats import spearmanr

    rho = float(spearmanr([row["size"] for row in end], [row["degrees"] for row in end]).statistic)
    return (
        f"At the end, over layers and seeds: {spread}. Rank correlation of angle and d: {rho:+.2f}. So angles differ "
        "between layers; whether scaling by them helps is a question for study 2."
    )


def _read(file: Path) -> Runs:
    if not file.exists():
        return {}
    numbers = {"seed": int, "depth": int, "size": int, "step": int, "degrees": float}
    runs: Runs = {}
    with file.open(newline="") as lines:
        for line in csv.DictReader(lines):
            row = {name: numbers.get(name, str)(x) for name, x in line.items()}
            runs.setdefault((row["task"], row["seed"], row["settings"]), []).append(row)
    return runs


def _write(file: Path, runs: Runs) -> None:
    rows = [row for run in sorted(runs) for row in runs[run]]  # in one order, whichever run ended first
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")  # so that an interruption leaves the old file or the new one
    with partial.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(file)


def _plot(file: Path, tasks: Sequence[str], rows: Sequence[Row]) -> None:
    figure, axes = plt.subplots(1, len(tasks), figsize=(4.2 * len(tasks), 3.4), squeeze=False, layout="constrained")
    for ax, task in zip(axes[0], tasks, strict=True):
        mine = [row for row in rows if row["task"] == task]
        for layer in dict.fromkeys(row["layer"] for row in mine):
            of_layer = [row for row in mine if row["layer"] == layer]
            steps = sorted({row["step"] for row in of_layer})
            means = [statistics.mean(r["degrees"] for r in of_layer if r["step"] == step) for step in steps]
            kind = of_layer[0]["kind"]
            seen = kind in ax.get_legend_handles_labels()[1]
            ax.plot(steps, means, color=COLORS[kind], alpha=0.8, label=None if seen else kind)
        ax.set(title=task, xlabel="step", ylabel="∠(v, 1), degrees", ylim=(0, 90))
        ax.legend(fontsize="small")
    cli.save(figure, file)


if __name__ == "__main__":
    main()
