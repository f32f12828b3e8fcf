"""Study 5: S, E and T, each alone and together, over ten seeds; and how sensitive each is to the learning rate.

A convolutional net on colour images of digits before photographs, and a language model of characters on Python's own
documentation. Adam, Adam with one operation, and SET-Adam choose floor and learning rate on the validation part: one
seed tries all settings; at the best floor, three seeds try the learning rates, and then two close to the best. Ten
other seeds use the test part.

    python effects.py [--jobs N] [--results DIR]
"""

import csv
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
Pair = tuple[str, str]  # task and variant
Claim = tuple[str, float, float]  # the sentence, its p, and Holm's


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
        self.less_is_better = store.CONFIG["tasks"][task]["model"] == "language"
        self.name, self.unit = ("bits a character", "bits") if self.less_is_better else ("accuracy, %", "points")

    def __call__(self, result: dict[str, float], part: str) -> float:
        """Infinite for a language model that diverged."""
        if not self.less_is_better:
            return result[f"{part}_accuracy"]
        loss = result[f"{part}_loss"]
        return math.inf if math.isnan(loss) else loss / math.log(2)

    def best(self, of: dict[Any, float]) -> Any:
        """The key of the best value."""
        return (min if self.less_is_better else max)(of, key=of.__getitem__)


class Found(NamedTuple):
    """What the runs say, by task and variant."""

    floors: dict[Pair, float]  # chosen by validation, as are the rates
    rates: dict[Pair, float]
    validation: dict[Any, list[float]]  # (task, variant, lr): what each tuning seed has
    final: dict[Any, dict[str, float]]  # (task, variant, seed): the result
    final_coarse: dict[Any, dict[str, float]]  # of some tasks, had the two learning rates in between not been tried
    layers: dict[tuple[str, float], list[Row]]  # (task, floor): SET-Adam's γ and share on the floor


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and write tables, plots and conclusions."""
    options = cli.parse(__doc__, arguments)
    tasks = options.tasks or store.CONFIG["effects"]["tasks"]
    found = run_all(tasks, options.results, options.jobs)
    tables.write(options.results / "effects.md", _report(tasks, found))
    _plot(options.results / "effects.svg", tasks, found)
    _plot_layers(options.results / "effects-layers.svg", found.layers)


def run_all(tasks: Sequence[str], results: Path, jobs: int) -> Found:
    """Tune, run the seeds, and look at the layers: all that is not in the files of results yet."""
    c, pairs = store.CONFIG["effects"], list(itertools.product(tasks, OPERATIONS))

    def of(runs: dict[Any, Run], title: str) -> dict[Any, dict[str, float]]:
        known = store.run_all(runs.values(), results / "effects.csv", jobs, title)
        return {place: known[store.key(run)] for place, run in runs.items()}

    floors = _floors(pairs, of)
    validation = _learning_rates(pairs, floors, dict.fromkeys(pairs, c["lr"]), of)
    coarse = {p: Measure(p[0]).best(_means(p, validation)) for p in pairs}
    between = {p: [float(f"{coarse[p] * c['finer'] ** sign:.2g}") for sign in (-1, 1)] for p in pairs}
    validation |= _learning_rates(pairs, floors, between, of)
    rates = {p: Measure(p[0]).best(_means(p, validation)) for p in pairs}
    final, final_coarse = (
        of({(*p, seed): run_of(*p, floors[p], chosen[p], seed) for p in of_these for seed in c["seeds"]}, "final runs")
        for chosen, of_these in ((rates, pairs), (coarse, [p for p in pairs if p[0] in c["coarse_too"]]))
    )
    watched = {
        (task, floor): run_of(task, "SET-Adam", floor, rates[task, "SET-Adam"], c["seeds"][0])
        for task in tasks
        for floor in sorted({floors[task, "SET-Adam"], FLOOR})
    }
    layers = _watch(list(watched.values()), results / "effects-layers.csv", jobs)
    by_floor = {place: layers[store.key(run)] for place, run in watched.items()}
    return Found(floors, rates, validation, final, final_coarse, by_floor)


def _report(tasks: Sequence[str], found: Found) -> str:
    said = _conclusions(tasks, found.final)
    said_coarse = _conclusions(dict.fromkeys(task for task, *_ in found.final_coarse), found.final_coarse)
    text = f"# Study 5: the operations one by one, over ten seeds\n\n{tables.opening(__doc__)}\n"
    for task in tasks:
        text += f"\n## {task}\n\n{_finals(task, found)}\n{_listed(said[task])}"
        if task in said_coarse:
            text += f"\nIf the two learning rates in between had not been tried:\n\n{_listed(said_coarse[task])}"
        text += f"\n{_sensitivity(task, found.validation)}"
        for (of_task, floor), rows in found.layers.items():
            text += f"\n{_over_time(floor, rows)}" if of_task == task else ""
    lines = [line for task in tasks for line, *_ in said[task]]
    sure = sum(adjusted <= 0.05 for task in tasks for *_, adjusted in said[task])
    return (
        f"{text}\n{tables.summary_of_pairs(lines, 'Adam')} After Holm's correction, {sure} remain.\n"
        f"\nMean ± standard deviation over {len(store.CONFIG['effects']['seeds'])} seeds. Intervals are Student's, of "
        "the paired differences (a seed is the same initial weights and the same batches for both). p is of the exact "
        "sign-flip test, which assumes no distribution; Holm's is corrected for the number of comparisons. Small "
        "models on small data.\n"
    )


def _floors(pairs: Sequence[Pair], of: Any) -> dict[Pair, float]:
    """The floor of each variant that is best on the validation part, with whichever learning rate."""
    c = store.CONFIG["effects"]
    settings = list(itertools.product(c["floor"], c["lr"]))
    runs = {(*p, floor, lr): run_of(*p, floor, lr, c["tuning_seeds"][0]) for p in pairs for floor, lr in settings}
    found = of(runs, "every setting")

    def best(task: str, variant: str) -> float:
        measure = Measure(task)
        scores = {at: measure(found[task, variant, *at], "validation") for at in settings}
        return float(measure.best(scores)[0])

    return {pair: best(*pair) for pair in pairs}


def _learning_rates(pairs: Any, floors: Any, rates: Any, of: Any) -> dict[Any, list[float]]:
    """What each variant has on the validation part at these learning rates, with each of the tuning seeds."""
    seeds = store.CONFIG["effects"]["tuning_seeds"]
    runs = {(*p, lr, seed): run_of(*p, floors[p], lr, seed) for p in pairs for lr in rates[p] for seed in seeds}
    found = of(runs, "learning rates")
    return {
        (*p, lr): [Measure(p[0])(found[*p, lr, seed], "validation") for seed in seeds] for p in pairs for lr in rates[p]
    }


def _means(pair: tuple[str, str], validation: dict[Any, list[float]]) -> dict[float, float]:
    """The mean over the tuning seeds by learning rate, in its order."""
    return {lr: statistics.mean(x) for (*of, lr), x in sorted(validation.items()) if tuple(of) == pair}


def _scores(task: str, variant: str, final: Any, part: str = "test") -> list[float]:
    return [Measure(task)(final[task, variant, seed], part) for seed in store.CONFIG["effects"]["seeds"]]


def _conclusions(tasks: Iterable[str], final: Any) -> dict[str, list[Claim]]:
    """Of each task, what can be concluded about each variant and Adam."""
    scores = {(task, name): _scores(task, name, final) for task in tasks for name in OPERATIONS}
    pairs = [(task, name) for task in tasks for name in list(OPERATIONS)[1:]]
    ps = [
        tables.sign_flips([a - b for a, b in zip(scores[pair], scores[pair[0], "Adam"], strict=True)]) for pair in pairs
    ]
    said: dict[str, list[Claim]] = {task: [] for task in tasks}
    for (task, name), p, adjusted in zip(pairs, ps, tables.holm(ps), strict=True):
        measure = Measure(task)
        line = tables.conclusion(
            name, scores[task, name], "Adam", scores[task, "Adam"], measure.unit, measure.less_is_better
        )
        said[task].append((line, p, adjusted))
    return said


def _listed(said: Sequence[Claim]) -> str:
    return "".join(f"- {line[:-1]}; p = {p:.3f}, Holm's {adjusted:.3f}.\n" for line, p, adjusted in said)


def _finals(task: str, found: Found) -> str:
    name = Measure(task).name
    header = ("variant", "floor chosen", "lr chosen", f"validation, {name}", f"test, {name}", "training loss")
    rows = []
    for variant in OPERATIONS:
        scores = [tables.mean_std(_scores(task, variant, found.final, part)) for part in ("validation", "test")]
        loss = statistics.mean(found.final[task, variant, s]["train_loss"] for s in store.CONFIG["effects"]["seeds"])
        chosen = (f"{x[task, variant]:g}" for x in (found.floors, found.rates))
        rows.append((variant, *chosen, *scores, f"{loss:.3g}"))
    return tables.markdown(header, rows)


def _sensitivity(task: str, validation: Any) -> str:
    rates = store.CONFIG["effects"]["lr"]
    rows = []
    for variant in OPERATIONS:
        means = _means((task, variant), validation)
        best = Measure(task).best(means)
        shown = {lr: f"**{x:.2f}**" if lr == best else f"{x:.2f}" for lr, x in means.items()}
        between = ", ".join(f"{shown[lr]} at {lr:g}" for lr in means if lr not in rates)
        rows.append((variant, *(shown[lr] for lr in rates), between))
    table = tables.markdown(("η", *(f"{lr:g}" for lr in rates), "in between"), rows)
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


def _plot(file: Path, tasks: Sequence[str], found: Found) -> None:
    figure, axes = plt.subplots(len(tasks), 2, figsize=(9, 3.2 * len(tasks)), squeeze=False, layout="constrained")
    for (left, right), task in zip(axes, tasks, strict=True):
        for i, variant in enumerate(OPERATIONS):
            means = _means((task, variant), found.validation)
            rates, values = list(means), [found.validation[task, variant, lr] for lr in means]
            left.plot(rates, list(means.values()), "o-", color=f"C{i}", label=variant, alpha=0.8)
            left.fill_between(rates, [min(x) for x in values], [max(x) for x in values], color=f"C{i}", alpha=0.12)
            scores = _scores(task, variant, found.final)
            right.plot(scores, [i] * len(scores), "o", alpha=0.5, color=f"C{i}")
            right.plot([statistics.mean(scores)], [i], "|", markersize=16, color=f"C{i}")
        measure = Measure(task)
        left.set(title=task, xlabel="η", ylabel=f"validation, {measure.name}", xscale="log")
        _keep_near_the_best(
            left, measure, [x for v in OPERATIONS for x in _means((task, v), found.validation).values()]
        )
        left.legend(fontsize="small")
        right.set(xlabel=f"test, {measure.name}", yticks=range(len(OPERATIONS)), yticklabels=OPERATIONS)
        right.invert_yaxis()
    cli.save(figure, file)


def _keep_near_the_best(ax: Any, measure: Measure, means: Sequence[float]) -> None:
    """The better three quarters of the means: a run that diverged would flatten the rest."""
    ranked = sorted(means, reverse=not measure.less_is_better)
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
