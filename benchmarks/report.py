"""The results as a table, JSON, Markdown and a picture."""

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
HEAD = ("layers", "dtype", "path", "ms", "its peer", "ms", "ratio", "quartiles")


def environment() -> dict[str, Any]:
    """What a figure depends on beside the code. No host is named."""
    versions = {}
    for name in ("setadam", "numpy", "numba", "torch", "jax", "optax"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or 'unknown'}, {platform.machine()}"


def rows(timings: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row of text for each timing, in the order of HEAD."""
    return [
        (
            x["set"],
            x["dtype"],
            x["path"],
            f"{x['ms']:.3f}",
            x["against"],
            f"{x['ms_peer']:.3f}",
            f"{x['ratio']:.2f}",
            f"{x['ratio_low']:.2f}–{x['ratio_high']:.2f}",
        )
        for x in timings
    ]


def show(title: str, head: tuple[str, ...], lines: list[tuple[str, ...]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if lines and lines[0][i][:1].isdigit() else "left")
    for line in lines:
        table.add_row(*line)
    Console().print(table)


def markdown(title: str, head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """The same as Markdown."""
    cells = [head, ("---",) * len(head), *lines]
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def save(results: dict[str, Any], tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]], name: str) -> Path:
    """Write JSON and Markdown to benchmarks/results, and a picture where matplotlib is there."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{results['environment']['date']}-{name}"
    path.with_suffix(".json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    env = results["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in env["versions"].items())
    text = f"# {env['date']}: {env['processor']}, {env['threads']} threads\n\nPython {env['python']}, {versions}. "
    text += f"A copy moves {results['copy_GB_per_s']:.1f} GB/s. {results['note']}\n\n"
    path.with_suffix(".md").write_text(text + "\n".join(markdown(*table) for table in tables))
    try:
        import matplotlib as mpl
    except ImportError:
        return path
    mpl.use("Agg")
    picture(results["timings"], path.with_suffix(".svg"))
    return path


def picture(timings: list[dict[str, Any]], path: Path) -> None:
    """Ratios to the peer for each set of layers, with quartiles, on a logarithmic axis."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "setadam"
    sets = list(dict.fromkeys(x["set"] for x in timings if x["dtype"] == "float32"))
    figure, axes = plt.subplots(1, len(sets), figsize=(3.2 * len(sets), 4), sharey=True, squeeze=False)
    names = list(dict.fromkeys(x["path"] for x in timings))[::-1]
    for ax, which in zip(axes[0], sets, strict=True):
        for x in timings:
            if x["set"] == which and x["dtype"] == "float32":
                colour = "tab:blue" if x["ours"] else "tab:grey"
                ax.plot([x["ratio_low"], x["ratio_high"]], [names.index(x["path"])] * 2, color=colour)
                ax.plot(x["ratio"], names.index(x["path"]), "o", color=colour)
        ax.axvline(1, color="black", linewidth=0.5)
        ax.set(xscale="log", title=which, xlabel="time / peer's")
        ax.set_yticks(range(len(names)), names)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
