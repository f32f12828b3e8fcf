"""The results as a table, JSON, Markdown and a picture."""

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as Printed

from benchmarks.sets import SCALING

RESULTS = Path(__file__).parent / "results"
CELLS = ("ms", 3), ("ratio", 2)  # of the table of threads, with their digits
_PUNCTUATION = str.maketrans("", "", ".–")
ACROSS = 5  # sets in a row of the picture
HEAD = ("layers", "dtype", "threads", "path", "ms", "its peer", "ms", "ratio", "quartiles")
Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]  # a title, a head, and lines


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
            str(x["threads"]),
            x["path"],
            f"{x['ms']:.3f}",
            x["against"],
            f"{x['ms_peer']:.3f}",
            f"{x['ratio']:.2f}",
            f"{x['ratio_low']:.2f}–{x['ratio_high']:.2f}",
        )
        for x in timings
    ]


def of_timings(timings: list[dict[str, Any]]) -> list[Table]:
    """A table of sets, one of sizes, and one that has the numbers of threads side by side."""
    usual, scaling = ([x for x in timings if (x["set"] in SCALING) == which] for which in (False, True))
    tables = [
        ("A step, in units of its peer's", HEAD, rows(usual)),
        ("By size of a layer, and by number of layers", HEAD, rows(scaling)),
        by_threads(timings),
    ]
    return [table for table in tables if table[2]]


def by_threads(timings: list[dict[str, Any]]) -> Table:
    """What threads give: a line for each path that was timed with several numbers of them."""
    counts = sorted({x["threads"] for x in timings})
    columns = [(key, digits, n) for key, digits in CELLS for n in counts]
    found: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
    for x in timings:
        found.setdefault((x["set"], x["dtype"], x["path"]), {})[x["threads"]] = x
    lines = []
    for about, by_count in found.items():
        if len(by_count) > 1:
            cells = [f"{by_count[n][key]:.{digits}f}" if n in by_count else "" for key, digits, n in columns]
            few, many = by_count[min(by_count)], by_count[max(by_count)]
            gains = [f"{few[key] / many[key]:.2f}" for key in ("ms", "ms_peer")]
            lines.append((*about, *cells, *gains))
    head = ("layers", "dtype", "path", *(f"{key}, {n}" for key, _, n in columns), "gain", "peer's gain")
    return "By number of threads; a gain is how many times faster the most are than the fewest", head, lines


def of_memory(found: list[dict[str, Any]], coordinates: int) -> Table:
    """What a step allocates, in words of four bytes for each coordinate."""
    lines = [(x["path"], f"{x['peak_bytes'] / 4 / coordinates:.4f}", str(x["operations"])) for x in found]
    head = ("path", "words a coordinate", "torch operations")
    return "Allocated in a step of the mix, and operations", head, lines


def show(title: str, head: tuple[str, ...], lines: list[tuple[str, ...]]) -> None:
    """Print a table."""
    table = Printed(title=title, title_justify="left")
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if lines and lines[0][i].translate(_PUNCTUATION).isdigit() else "left")
    for line in lines:
        table.add_row(*line)
    Console().print(table)


def markdown(title: str, head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """The same as Markdown."""
    cells = [head, ("---",) * len(head), *lines]
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def save(results: dict[str, Any], tables: list[Table], name: str) -> Path:
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
    most = max((x["threads"] for x in results["timings"]), default=0)
    shown = [
        x for x in results["timings"] if x["dtype"] == "float32" and x["threads"] == most and x["set"] not in SCALING
    ]
    if shown:
        picture(shown, path.with_suffix(".svg"))
    return path


def picture(timings: list[dict[str, Any]], path: Path) -> None:
    """Ratios to the peer in float32 for each set of layers, with quartiles, on a logarithmic axis."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "setadam"
    sets = list(dict.fromkeys(x["set"] for x in timings))
    height, across = -(-len(sets) // ACROSS), min(ACROSS, len(sets))
    figure, axes = plt.subplots(height, across, figsize=(3.2 * across, 4 * height), sharey=True, squeeze=False)
    names = list(dict.fromkeys(x["path"] for x in timings))[::-1]
    for ax, which in zip(axes.flat, sets, strict=False):
        for x in timings:
            if x["set"] == which:
                colour = "tab:blue" if x["ours"] else "tab:grey"
                ax.plot([x["ratio_low"], x["ratio_high"]], [names.index(x["path"])] * 2, color=colour)
                ax.plot(x["ratio"], names.index(x["path"]), "o", color=colour)
        ax.axvline(1, color="black", linewidth=0.5)
        ax.set(xscale="log", title=which, xlabel="time / peer's")
        ax.set_yticks(range(len(names)), names)
    for ax in axes.flat[len(sets) :]:
        ax.remove()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
