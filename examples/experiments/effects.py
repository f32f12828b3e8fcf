"""Study 5: S, E and T, each alone and together, over ten seeds; and how sensitive each is to the learning rate.

A convolutional net on colour images of digits before photographs, and a language model of characters on Python's own
documentation. Adam, Adam with one operation, and SET-Adam choose floor and learning rate on the validation part: one
seed tries all settings, then three seeds the learning rates at the best floor. Ten other seeds use the test part.

    python effects.py [--jobs N] [--results DIR]
"""

import csv
import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import angles
import cli
import matplotlib.pyplot as plt
import models
import optimizers
import store
import tables
from training import Run, train

OPERATIONS = {"Adam": "", "S": "S", "E": "E", "T": "T", "SET-Adam": "SET"}  # which are on
FLOOR = 1e-4  # SET-Adam's by default

Row = dict[str, Any]  # run, layer, kind, size, step, gamma, floor_share
Layers = dict[str, list[Row]]  # of each run, by its key


def run_of(task: str, variant: str, floor: float, lr: float, seed: int) -> Run:
    """A run of a variant. The floor is ε outside the root, and √ε under it."""
    if variant == "Adam":
        return Run(task, "Adam", (("eps", floor), ("lr", lr)), seed)
    settings: dict[str, Any] = {"lr": lr, "eps": floor**2}
    for operation in set("SET") - set(OPERATIONS[variant]):
        settings |= {**optimizers.OFF[operation], **({"eps": floor} if operation == "E" else {})}
    return Run(task, "SET-Adam", tuple(sorted(settings.items())), seed)


class Measure:
    """What a task is judged by: accuracy, or of text the bits that a character costs."""

    def __init__(self, task: str) -> None:
        self.is_text = store.CONFIG["tasks"][task]["model"] == "language"
        self.name, self.unit = ("bits a character", "bits") if self.is_text else ("accuracy, %", "points")

    def __call__(self, result: dict[str, float], part: str) -> float:
        """Infinite for a language model that diverged."""
        if not self.is_text:
            return result[f"{part}_accuracy"]
        loss = result[f"{part}_loss"]
        return math.inf if math.isnan(loss) else loss / math.log(2)

    def best(self, of: dict[Any, float]) -> Any:
        """The key of the best value."""
        return (min if self.is_text else max)(of, key=of.__getitem__)


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and write tables, plots and conclusions."""
    options = cli.parse(__doc__, arguments)
    c, file = store.CONFIG["effects"], options.results / "effects.csv"
    tasks = options.tasks or c["tasks"]
    pairs = list(itertools.product(tasks, OPERATIONS))

    def of(runs: dict[Any, Run], title: str) -> dict[Any, dict[str, float]]:
        found = store.run_all(runs.values(), file, options.jobs, title)
        return {place: found[store.key(run)] for place, run in runs.items()}

    first, *more = c["tuning_seeds"]
    every = of(
        {(*p, floor, lr): run_of(*p, floor, lr, first) for p in pairs for floor in c["floor"] for lr in c["lr"]},
        "every setting",
    )
    floors = {
        p: Measure(p[0]).best({k[2:]: Measure(p[0])(r, "validation") for k, r in every.items() if k[:2] == p})[0]
        for p in pairs
    }
    curves = of(
        {(*p, lr, seed): run_of(*p, floors[p], lr, seed) for p in pairs for lr in c["lr"] for seed in (first, *more)},
        "learning rates",
    )
    validation = {
        (*p, lr): [Measure(p[0])(curves[*p, lr, seed], "validation") for seed in (first, *more)]
        for p in pairs
        for lr in c["lr"]
    }
    rates = {p: Measure(p[0]).best({lr: statistics.mean(validation[*p, lr]) for lr in c["lr"]}) for p in pairs}
    final = of({(*p, seed): run_of(*p, floors[p], rates[p], seed) for p in pairs for seed in c["seeds"]}, "final runs")
    watched = {
        (task, floor): run_of(task, "SET-Adam", floor, rates[task, "SET-Adam"], c["seeds"][0])
        for task in tasks
        for floor in sorted({floors[task, "SET-Adam"], FLOOR})
    }
    layers = _watch(list(watched.values()), options.results / "effects-layers.csv", options.jobs)

    text = f"# Study 5: the operations one by one, over ten seeds\n\n{tables.opening(__doc__)}\n"
    claims = {task: _claims(task, final) for task in tasks}
    adjusted = iter(tables.holm([p for task in tasks for *_, p in claims[task]]))
    said: list[str] = []
    for task in tasks:
        measure, lines = Measure(task), []
        for name, ours, adams, p in claims[task]:
            line = tables.conclusion(name, ours, "Adam", adams, measure.unit, measure.is_text)
            said.append(line)
            lines.append(f"- {line[:-1]}; p = {p:.3f}, Holm's {next(adjusted):.3f}.")
        text += f"\n## {task}\n\n{_finals(task, floors, rates, final)}\n" + "\n".join(lines) + "\n"
        text += f"\n{_sensitivity(task, validation)}\n"
        text += "".join(
            f"\n{_over_time(floor, layers[store.key(run)])}\n"
            for (of_task, floor), run in watched.items()
            if of_task == task
        )
    text += (
        f"\n{tables.summary_of_pairs(said, 'Adam')}\n"
        f"\nMean ± standard deviation over {len(c['seeds'])} seeds. Intervals are Student's, of the paired differences "
        "(a seed is the same initial weights and the same batches for both). p is of the exact sign-flip test, which "
        "assumes no distribution; Holm's is corrected for the number of comparisons. Small models on small data.\n"
    )
    tables.write(options.results / "effects.md", text)
    _plot(options.results / "effects.svg", tasks, validation, final)
    _plot_layers(options.results / "effects-layers.svg", {at: layers[store.key(run)] for at, run in watched.items()})


def _scores(task: str, variant: str, final: Any, part: str = "test") -> list[float]:
    return [Measure(task)(final[task, variant, seed], part) for seed in store.CONFIG["effects"]["seeds"]]


def _claims(task: str, final: Any) -> list[tuple[str, list[float], list[float], float]]:
    """Each variant, its test results and Adam's, and the p of their differences."""
    adams = _scores(task, "Adam", final)
    found = []
    for name in list(OPERATIONS)[1:]:
        ours = _scores(task, name, final)
        found.append((name, ours, adams, tables.sign_flips([a - b for a, b in zip(ours, adams, strict=True)])))
    return found


def _finals(task: str, floors: Any, rates: Any, final: Any) -> str:
    name = Measure(task).name
    header = ("variant", "floor chosen", "lr chosen", f"validation, {name}", f"test, {name}", "training loss")
    rows = []
    for variant in OPERATIONS:
        scores = [tables.mean_std(_scores(task, variant, final, part)) for part in ("validation", "test")]
        loss = statistics.mean(final[task, variant, s]["train_loss"] for s in store.CONFIG["effects"]["seeds"])
        rows.append((variant, f"{floors[task, variant]:g}", f"{rates[task, variant]:g}", *scores, f"{loss:.3g}"))
    return tables.markdown(header, rows)


def _sensitivity(task: str, validation: Any) -> str:
    rates = store.CONFIG["effects"]["lr"]
    rows = []
    for variant in OPERATIONS:
        means = {lr: statistics.mean(validation[task, variant, lr]) for lr in rates}
        best = Measure(task).best(means)
        rows.append((variant, *(f"**{means[lr]:.2f}**" if lr == best else f"{means[lr]:.2f}" for lr in rates)))
    table = tables.markdown(("η", *(f"{lr:g}" for lr in rates)), rows)
    count = len(store.CONFIG["effects"]["tuning_seeds"])
    return f"Validation, {Measure(task).name}, by learning rate: means of {count} seeds, the best in bold.\n\n{table}"


def _over_time(floor: float, rows: Sequence[Row]) -> str:
    """γ and the share on the floor at the first step, halfway and at the end, over the layers."""
    steps = sorted({row["step"] for row in rows})
    chosen = (steps[0], steps[len(steps) // 2], steps[-1])
    table = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        cells = []
        for field, step in itertools.product(("gamma", "floor_share"), chosen):
            cells.append(f"{statistics.mean(r[field] for r in rows if r['kind'] == kind and r['step'] == step):.2f}")
        table.append((kind, *cells))
    header = (
        "kind of layer",
        *(f"γ, step {step}" for step in chosen),
        *(f"on the floor, step {step}" for step in chosen),
    )
    title = f"SET-Adam with √ε = {floor:g}, means over the layers of a kind, of one seed:"
    return f"{title}\n\n{tables.markdown(header, table)}"


def observe(run: Run, task: dict[str, Any], training: dict[str, Any], every: int) -> list[Row]:
    """γ and the share on the floor of each layer, at the first step, at every ``every``-th and at the last."""
    rows: list[Row] = []
    last: list[Row] = []

    def look(step: int, optimizer: Any) -> None:
        now = [
            {"layer": name, "step": step, "gamma": round(x["gamma"], 5), "floor_share": round(x["floor_share"], 5)}
            for name, x in optimizer.layer_statistics().items()
        ]
        last[:] = now
        if step == 1 or step % every == 0:
            rows.extend(now)

    train(run, task, training, look)
    return rows if rows[-1]["step"] == last[-1]["step"] else rows + last


def _watch(runs: Sequence[Run], file: Path, jobs: int) -> Layers:
    """What `observe` says of each run, from the file, or from a new run that is added to it."""
    c = store.CONFIG
    done: Layers = {}
    if file.exists():
        for row in csv.DictReader(file.read_text().splitlines()):
            numbers = {"step": int(row["step"]), "gamma": float(row["gamma"]), "floor_share": float(row["floor_share"])}
            done.setdefault(row["run"], []).append({**row, **numbers})
    calls = [
        (run, c["tasks"][run.task], c["training"], c["effects"]["every"]) for run in runs if store.key(run) not in done
    ]
    for (run, task, *_), rows in store.in_parallel(observe, calls, jobs, "layers"):
        kinds = _kinds(task)
        done[store.key(run)] = [{"run": store.key(run), "kind": kinds[row["layer"]], **row} for row in rows]
        partial = file.with_suffix(".part")  # an interruption leaves the old file or the new one
        with partial.open("w", newline="") as lines:
            writer = csv.DictWriter(
                lines, ("run", "layer", "kind", "step", "gamma", "floor_share"), lineterminator="\n"
            )
            writer.writeheader()
            for key in sorted(done):
                writer.writerows(done[key])
        partial.replace(file)
    return done


def _kinds(task: dict[str, Any]) -> dict[str, str]:
    model = models.build(task["model"], {"conv2d": 3}.get(task["model"], 64))
    return {name: kind for name, (kind, *_) in angles.kinds(model).items()}


def _plot(file: Path, tasks: Sequence[str], validation: Any, final: Any) -> None:
    figure, axes = plt.subplots(len(tasks), 2, figsize=(9, 3.2 * len(tasks)), squeeze=False, layout="constrained")
    rates = store.CONFIG["effects"]["lr"]
    for (left, right), task in zip(axes, tasks, strict=True):
        for i, variant in enumerate(OPERATIONS):
            values = [validation[task, variant, lr] for lr in rates]
            left.plot(rates, [statistics.mean(x) for x in values], "o-", color=f"C{i}", label=variant, alpha=0.8)
            left.fill_between(rates, [min(x) for x in values], [max(x) for x in values], color=f"C{i}", alpha=0.12)
            scores = _scores(task, variant, final)
            right.plot(scores, [i] * len(scores), "o", alpha=0.5, color=f"C{i}")
            right.plot([statistics.mean(scores)], [i], "|", markersize=16, color=f"C{i}")
        measure = Measure(task)
        left.set(title=task, xlabel="η", ylabel=f"validation, {measure.name}", xscale="log")
        _keep_near_the_best(
            left, measure, [statistics.mean(validation[task, v, lr]) for v in OPERATIONS for lr in rates]
        )
        left.legend(fontsize="small")
        right.set(xlabel=f"test, {measure.name}", yticks=range(len(OPERATIONS)), yticklabels=OPERATIONS)
        right.invert_yaxis()
    cli.save(figure, file)


def _keep_near_the_best(ax: Any, measure: Measure, means: Sequence[float]) -> None:
    """The better three quarters of the means: a run that diverged would flatten the rest."""
    ranked = sorted(means, reverse=not measure.is_text)
    near, best = ranked[3 * len(ranked) // 4], ranked[0]
    margin = 0.1 * abs(best - near)
    ax.set_ylim(*sorted((best + math.copysign(margin, best - near), near - math.copysign(margin, best - near))))


def _plot_layers(file: Path, watched: dict[tuple[str, float], list[Row]]) -> None:
    figure, axes = plt.subplots(len(watched), 2, figsize=(9, 2.8 * len(watched)), squeeze=False, layout="constrained")
    for row_of_axes, ((task, floor), rows) in zip(axes, watched.items(), strict=True):
        for ax, (field, label) in zip(
            row_of_axes, (("gamma", "γ"), ("floor_share", "share on the floor")), strict=True
        ):
            for layer in dict.fromkeys(row["layer"] for row in rows):
                mine = [row for row in rows if row["layer"] == layer]
                kind = mine[0]["kind"]
                seen = kind in ax.get_legend_handles_labels()[1]
                style = {"color": angles.COLORS[kind], "alpha": 0.8, "label": None if seen else kind}
                ax.plot([row["step"] for row in mine], [row[field] for row in mine], **style)
            ax.set(title=f"{task}, √ε = {floor:g}", xlabel="step", ylabel=label, ylim=(-0.03, 1.03))
        row_of_axes[0].legend(fontsize="small")
    cli.save(figure, file)


if __name__ == "__main__":
    main()
