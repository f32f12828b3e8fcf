"""Study 1: SET-Adam compared with Adam, AdamW, AdaBelief and SGD with momentum, equally tuned.

For each task and optimizer, 15 settings are tried with one seed. The setting with the best validation accuracy is then
run with five other seeds, and only these runs use the test part.

    python compare.py [--jobs N] [--results DIR]
"""

import itertools
from typing import Any

import cli
import matplotlib.pyplot as plt
import store
import tables
from training import Run

OPTIMIZERS = ("SET-Adam", "Adam", "AdamW", "AdaBelief", "SGD")


def settings(optimizer: str) -> list[tuple[tuple[str, Any], ...]]:
    """The settings to try for an optimizer, the same number for each."""
    c = store.CONFIG["compare"]
    if optimizer == "SGD":
        pairs = itertools.product(c["sgd_lr"], c["sgd_momentum"])
        return [(("lr", lr), ("momentum", momentum)) for lr, momentum in pairs]
    made = []
    for eps, lr in itertools.product(c["eps"], c["lr"]):
        chosen = {"eps": eps**2 if optimizer == "SET-Adam" else eps, "lr": lr}
        if optimizer == "AdamW":
            chosen["weight_decay"] = c["adamw_weight_decay"]
        made.append(tuple(sorted(chosen.items())))
    return made


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and write table, plot and conclusions."""
    options = cli.parse(__doc__, arguments)
    config, file = store.CONFIG, options.results / "compare.csv"
    seeds, tuning = config["seeds"], config["tuning_seed"]
    pairs = [(task, name) for task in options.tasks or config["compare"]["tasks"] for name in OPTIMIZERS]
    trials = {(task, name): [Run(task, name, s, tuning) for s in settings(name)] for task, name in pairs}
    found = store.run_all(itertools.chain(*trials.values()), file, options.jobs, "tuning")
    best = {
        pair: max(runs, key=lambda run: found[store.key(run)]["validation_accuracy"]) for pair, runs in trials.items()
    }
    finals = {pair: [run._replace(seed=seed) for seed in seeds] for pair, run in best.items()}
    found = store.run_all(itertools.chain(*finals.values()), file, options.jobs, "final runs")

    def over_seeds(pair: tuple[str, str], what: str) -> list[float]:
        return [found[store.key(run)][what] for run in finals[pair]]

    text = f"# Study 1: five optimizers, equally tuned\n\n{tables.opening(__doc__)}\n"
    every: list[str] = []
    for task in dict.fromkeys(task for task, _ in pairs):
        header = ("optimizer", "chosen by validation", "validation, %", "test, %", "training loss")
        rows = []
        for name in OPTIMIZERS:
            chosen = ", ".join(f"{k} {v:g}" for k, v in best[task, name].settings)
            accuracies = (tables.mean_std(over_seeds((task, name), f"{x}_accuracy")) for x in ("validation", "test"))
            loss = sum(over_seeds((task, name), "train_loss")) / len(seeds)
            rows.append((name, chosen, *accuracies, f"{loss:.3g}"))
        ours = over_seeds((task, "SET-Adam"), "test_accuracy")
        said = [
            tables.conclusion("SET-Adam", ours, other, over_seeds((task, other), "test_accuracy"))
            for other in OPTIMIZERS[1:]
        ]
        every += said
        text += f"\n## {task}\n\n{tables.markdown(header, rows)}\n" + "\n".join(f"- {line}" for line in said) + "\n"
    text += (
        f"\n{tables.summary(every, 'SET-Adam')}\n"
        f"\nMean ± standard deviation over {len(seeds)} seeds; intervals are Student's, of the paired differences, and "
        "not corrected for the number of comparisons. Small models on small data: this says nothing of large ones.\n"
    )
    tables.write(options.results / "compare.md", text)
    _plot(options.results / "compare.svg", pairs, over_seeds)


def _plot(file: Any, pairs: list[tuple[str, str]], over_seeds: Any) -> None:
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    figure, axes = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 3), squeeze=False, layout="constrained")
    for ax, task in zip(axes[0], tasks, strict=True):
        for i, name in enumerate(OPTIMIZERS):
            values = over_seeds((task, name), "test_accuracy")
            ax.plot(values, [i] * len(values), "o", alpha=0.6, color=f"C{i}")
            ax.plot([sum(values) / len(values)], [i], "|", markersize=16, color=f"C{i}")
        ax.set(title=task, xlabel="test accuracy, %", yticks=range(len(OPTIMIZERS)), yticklabels=OPTIMIZERS)
        ax.invert_yaxis()
    cli.save(figure, file)


if __name__ == "__main__":
    main()
