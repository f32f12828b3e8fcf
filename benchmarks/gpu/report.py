"""The outcomes as a table for the terminal, and as Markdown and JSON to commit.

A part may write figures as JSON: any keys, of which "tables" is a list of {"title", "head", "rows"}, all text, that the
Markdown shows.
"""

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu.running import FAILED, Outcome, summary

RESULTS = Path(__file__).parents[1] / "results"
PACKAGES = ("setadam", "torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "jax", "jaxlib", "optax", "numpy", "numba")
HEAD = ("part", "outcome", "s", "")


def rows(found: Sequence[Outcome]) -> list[tuple[str, ...]]:
    return [(x.name, x.status, f"{x.seconds:.0f}" if x.seconds else "", x.words) for x in found]


def counted(found: Sequence[Outcome]) -> str:
    return ", ".join(f"{n} {status}" for status, n in summary(found).items())


def text(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table with columns of equal width."""
    widths = [max(len(row[i]) for row in (head, *lines)) for i in range(len(head))]
    rules = tuple("─" * width for width in widths)
    return "\n".join(
        "  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in (head, rules, *lines)
    )


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *([x.replace("|", "\\|") for x in line] for line in lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def environment(date: str, devices: Sequence[str]) -> dict[str, Any]:
    """What the outcomes depend on beside the code. No host is named."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"date": date, "devices": list(devices), "python": platform.python_version(), "versions": versions}


def markdown(about: dict[str, Any], found: Sequence[Outcome]) -> str:
    """The whole report: the summary, then the tables of the parts, then what failing parts said last."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    devices = ", ".join(f"{about['devices'].count(name)} × {name}" for name in dict.fromkeys(about["devices"]))
    pieces = [f"# {about['date']}: {devices}\n\n`make gpu`: {counted(found)}. Python {about['python']}, {versions}.\n"]
    pieces.append(markdown_table(HEAD, rows(found)))
    for outcome in found:
        for table in outcome.data.get("tables", []):
            pieces.append(f"## {outcome.name}: {table['title']}\n\n" + markdown_table(table["head"], table["rows"]))
        if outcome.status == FAILED:
            pieces.append(f"## {outcome.name}: its last words\n\n```\n{outcome.output.strip()}\n```\n")
    return "\n".join(pieces)


def save(about: dict[str, Any], found: Sequence[Outcome], folder: Path = RESULTS) -> Path:
    """Write DATE-DEVICE.md and .json. The path is without its suffix."""
    folder.mkdir(exist_ok=True)
    device = re.sub(r"[^a-z0-9]+", "-", about["devices"][0].lower()).strip("-")
    path = folder / f"{about['date']}-{device}"
    whole = {"environment": about, "summary": dict(summary(found)), "parts": [asdict(x) for x in found]}
    Path(f"{path}.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    Path(f"{path}.md").write_text(markdown(about, found))
    return path
