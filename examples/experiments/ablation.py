"""Study 2: what each of the three operations contributes, how much τ, and which power of the cosine.

Eight combinations of S, E and T on and off; τ from 0 to 0.9; n in γ = cosⁿ∠(v, 1) from 0 to 4. The learning
rate is chosen separately for each variant, by validation accuracy with one seed. The results are from five other seeds.

    python ablation.py [--jobs N] [--results DIR]
"""

import itertools
from typing import Any

import cli
import matplotlib.pyplot as plt
import optimizers
import store
import tables
from training import Run

Variant = dict[str, Any]  # what differs from SET-Adam's defaults


def groups() -> dict[str, dict[str, Variant]]:
    """The three questions, and under each the variants by name."""
    c = store.CONFIG["ablation"]
    combinations: dict[str, Variant] = {}
    for on in itertools.chain.from_iterable(itertools.combinations("SET", n) for n in range(4)):
        off = [operation for operation in "SET" if operation not in on]
        merged: Variant = {}
        for operation in off:
            merged |= optimizers.OFF[operation]
        combinations["".join(on) or "all off"] = merged
    return {
        "operations": combinations,
        "τ": {f"{tau:g}": {"tau": tau} for tau in c["tau"]},
        "power of the cosine": {f"{n:g}": {"cos_power": n} for n in c["cos_power"]},
    }


def run_of(task: str, variant: Variant, lr: float, seed: int) -> Run:
    """The run of a variant. Values equal to the default are omitted, so that equal variants are one run."""
    differing = {k: v for k, v in variant.items() if (k, v) not in (("tau", 0.5), ("cos_power", 2.0))}
    return Run(task, "SET-Adam", tuple(sorted({**differing, "lr": lr}.items())), seed)


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and write table, plot and conclusions."""
    options = cli.parse(__doc__, arguments)
    c, file = store.CONFIG["ablation"], options.results / "ablation.csv"
    seeds, tuning, tasks = store.CONFIG["seeds"], store.CONFIG["tuning_seed"], options.tasks or c["tasks"]
    variants = {(g, name): v for g, named in groups().items() for name, v in named.items()}
    trials = {
        (task, *place): [run_of(task, variant, lr, tuning) for lr in c["lr"]]
        for task in tasks
        for place, variant in variants.items()
    }
    found = store.run_all(itertools.chain(*trials.values()), file, options.jobs, "tuning")
    best = {
        place: max(runs, key=lambda run: found[store.key(run)]["validation_accuracy"]) for place, runs in trials.items()
    }
    finals = {place: [run._replace(seed=seed) for seed in seeds] for place, run in best.items()}
    found = store.run_all(itertools.chain(*finals.values()), file, options.jobs, "final runs")

    def test_accuracies(task: str, group: str, name: str) -> list[float]:
        return [found[store.key(run)]["test_accuracy"] for run in finals[task, group, name]]

    text = f"# Study 2: ablation\n\n{tables.opening(__doc__)}\n"
    ours = "SET-Adam's default"
    every: dict[tuple[Run, ...], str] = {}  # the same runs under two names are compared once
    for task, (group, named) in itertools.product(tasks, groups().items()):
        rows, said = [], []
        for name in named:
            values = test_accuracies(task, group, name)
            rows.append((name, f"{dict(best[task, group, name].settings)['lr']:g}", tables.mean_std(values)))
            if name != _default(group):
                whole = test_accuracies(task, "operations", "SET")
                said.append(tables.conclusion(ours, whole, name, values))
                every[tuple(finals[task, group, name])] = said[-1]
        text += f"\n## {task}: {group}\n\n{tables.markdown((group, 'lr chosen', 'test, %'), rows)}\n"
        text += "\n".join(f"- {line}" for line in said) + "\n"
    text += (
        f"\n{tables.summary(list(every.values()), ours)}\n"
        f"\nMean ± standard deviation over {len(seeds)} seeds; 95 % intervals are Student's, of the paired "
        "differences, not corrected for the number of comparisons. Without E, ε stands outside the "
        "root at √ε = 1e-4, the same floor.\n"
    )
    tables.write(options.results / "ablation.md", text)
    _plot(options.results / "ablation.svg", tasks, test_accuracies)


def _default(group: str) -> str:
    return {"operations": "SET", "τ": "0.5", "power of the cosine": "2"}[group]


def _plot(file: Any, tasks: list[str], test_accuracies: Any) -> None:
    shape = (len(tasks), len(groups()))
    figure, axes = plt.subplots(*shape, figsize=(10, 2.6 * len(tasks)), squeeze=False, layout="constrained")
    for row, task in zip(axes, tasks, strict=True):
        for ax, (group, named) in zip(row, groups().items(), strict=True):
            for i, name in enumerate(named):
                values = test_accuracies(task, group, name)
                color = "C3" if name == _default(group) else "C0"
                ax.plot([i] * len(values), values, "o", alpha=0.6, color=color)
                ax.plot([i], [sum(values) / len(values)], "_", markersize=16, color=color)
            ax.set(title=f"{task}: {group}", ylabel="test accuracy, %", xticks=range(len(named)), xticklabels=named)
    cli.save(figure, file)


if __name__ == "__main__":
    main()
