"""What the commands of the studies share: their options, and writing a figure."""

import argparse
import os
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

matplotlib.use("agg")
matplotlib.rcParams["svg.hashsalt"] = "setadam"  # the same figure is the same file


def parse(doc: str | None, arguments: list[str] | None) -> argparse.Namespace:
    """--jobs, --results, --tasks."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time, of one thread each (%(default)s)"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path(__file__).parent / "results",
        help="where the CSV files are, which a study goes on from, and the reports go (default: beside this file)",
    )
    parser.add_argument("--tasks", nargs="*", default=[], help="of config.toml; default: the study's own")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    return options


def save(figure: Any, file: Path) -> None:
    """Write the figure without the date, so that equal figures are equal files, and close it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)
