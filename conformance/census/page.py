"""docs/census.md, from the verdicts and the programs of the findings."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import programs
from judge import PLAIN, Judged

from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.reporting.summary import about, by_backend, figure, worst_ratio
from setadam_conformance.running.results import Backend, Cell

FINDINGS = Path(__file__).parent / "findings"
INTERFACE = "interface"  # the reason of expectations that are no findings of their own

_HEAD = (Path(__file__).parent / "head.md").read_text(encoding="utf-8")


def write(path: Path, judged: Iterable[Judged], day: str, missing: dict[str, str]) -> None:
    """Write the page. missing: why a library could not be judged, by name."""
    judged = list(judged)
    run = judged[0].run
    lines = [_HEAD, f"{day}, profile `{run.profile}`, {run.environment['platform']}.", ""]
    lines += _table(judged)
    lines += [f"{name} was not judged here: {reason}." for name, reason in missing.items()]
    lines += ["", *_claims(judged), "", *_findings(judged)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(judged: list[Judged]) -> list[str]:
    lines = [
        "| optimizer | version | " + " | ".join(FORMATS) + " | arithmetic | interface |",
        "|---|---|" + "--:|" * len(FORMATS) + "---|---|",
    ]
    for one in judged:
        properties = by_backend(one.run)
        for backend in one.run.backends:
            if not backend.missing and backend.name in properties:
                cells = [cell for by_dtype in properties[backend.name].values() for cell in by_dtype.values()]
                lines.append(_row(backend, cells))
    return [
        *lines,
        "",
        "The numbers are the worst error/bound over the properties that pass. «arithmetic» has what the others found.",
    ]


def _row(backend: Backend, cells: list[Cell]) -> str:
    numbers = [cell for cell in cells if about(cell) == "arithmetic" and cell.property != "coverage"]
    interface = [cell for cell in cells if about(cell) == "interface"]
    # Failures stop a property at its first one, so their figures are no worst values: only passes have one.
    ratios = [worst_ratio(c for c in numbers if c.dtype == dtype and c.status == "pass") for dtype in FORMATS]
    wrong: dict[str, set[str]] = {}
    for cell in numbers:
        if cell.status != "pass":
            wrong.setdefault(cell.reason, set()).add(cell.dtype)
    tried = {cell.dtype for cell in numbers}
    verdict = "; ".join(f"{_where(wrong[reason], tried)}{_link(reason)}" for reason in sorted(wrong)) or "conforms"
    held = sum(cell.status == "pass" for cell in interface)
    versions = ", ".join(f"{name} {version}" for name, version in list(backend.versions.items())[:1])
    return (
        f"| {backend.name} | {versions} | {' | '.join(map(figure, ratios))} | {verdict} | {held} of {len(interface)} |"
    )


def _where(dtypes: set[str], tried: set[str]) -> str:
    return "" if dtypes == tried else f"{', '.join(dtype for dtype in FORMATS if dtype in dtypes)}: "


def _link(reason: str) -> str:
    words = reason.replace("_", " ")
    return f"[{words}](#{reason.replace('_', '-')})" if reason in {path.stem for path in _programs()} else words


def _claims(judged: list[Judged]) -> list[str]:
    lines = [
        "## What the claims are needed for",
        "",
        "All of them fix the hyperparameters of SET-Adam that make it Adam or AdamW. For 16-bit parameters nearly all",
        "have moments and arithmetic in the parameter's format. Here are the other claims, and the worst error/bound",
        "of `one-step` in the quick profile without each of them:",
        "",
        "| optimizer | claim | " + " | ".join(FORMATS) + " |",
        "|---|---|" + "--:|" * len(FORMATS),
    ]
    for one in judged:
        for backend, by_claim in one.without.items():
            for claim, worst in by_claim.items():
                made = next(b.capabilities[claim] for b in one.run.backends if b.name == backend)
                figures = " | ".join(figure(worst.get(dtype)) for dtype in FORMATS)
                lines.append(f"| {backend} | `{claim} = {_value(made)}` | {figures} |")
    return lines


def _value(made: object) -> str:
    return repr(tuple(made)) if isinstance(made, list) else repr(made)


def _findings(judged: list[Judged]) -> list[str]:
    lines = ["## Findings", ""]
    concerned: dict[str, set[str]] = {}
    for one in judged:
        for cell in one.run.cells:
            if cell.status != "pass":
                concerned.setdefault(cell.reason, set()).add(cell.backend)
    for path in sorted(_programs(), key=lambda path: (path.stem not in concerned, path.stem)):
        title, text, code = _parts(path.read_text(encoding="utf-8"))
        said = _output(path)
        lines += [f"({path.stem.replace('_', '-')})=", f"### {title.removesuffix('.')}", "", text, ""]
        if path.stem in concerned:
            lines += [f"Seen by the kit on {', '.join(sorted(concerned[path.stem]))}.", ""]
        lines += [
            f"```{'python' if path.suffix == '.py' else 'javascript'}",
            code,
            "```",
            "",
            "```text",
            said,
            "```",
            "",
        ]
    return lines


def _programs() -> list[Path]:
    return [*FINDINGS.glob("*.py"), *(programs.FOLDER / "findings").glob("*.mjs")]


def _parts(source: str) -> tuple[str, str, str]:
    """Title, text and code of a program, whose head is a docstring, or a comment /* … */."""
    start, end = ('"""', '"""') if source.startswith('"""') else ("/* ", " */")
    head, code = source.removeprefix(start).split(end, 1)
    title, _, text = head.replace("\n *\n", "\n\n").replace("\n * ", "\n").partition("\n\n")
    return " ".join(title.split()), text.strip(), code.strip()


def _output(path: Path) -> str:
    command = [sys.executable if path.suffix == ".py" else "node", path.name]
    try:
        done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"not run here: {error}"
    return done.stdout.strip() if done.returncode == 0 else f"not run here: {done.stderr.strip().splitlines()[-1]}"


__all__ = ["INTERFACE", "PLAIN", "write"]
