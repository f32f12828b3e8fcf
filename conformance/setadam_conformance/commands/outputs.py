"""The files that a run writes. It is checked before the run that they can be written. They are written after its tables
are printed, so that a disk that has become full loses no verdict.
"""

import hashlib
import json
import re
from pathlib import Path

from setadam_conformance.commands.common import UsageError, check_writable
from setadam_conformance.running.results import Cell, Run

_REPORTS = ("report.json", "report.html")
_OURS = re.compile(r"[a-z0-9-]+-[a-z]+[0-9]+-[0-9a-f]{8}\.json")  # the names that `_name` gives


def check_outputs(report: Path | None, junit: Path | None) -> None:
    """Make the folders of --report and --junit, and check that their files can be written. Raises UsageError."""
    if report:
        check_writable("--report", *(report / name for name in _REPORTS))
        if _failures(report).exists() and not _failures(report).is_dir():
            raise UsageError(f"--report: {_failures(report)} must be a folder: files for `replay` are written there")
    if junit:
        check_writable("--junit", junit)


def name_repros(result: Run, report: Path) -> None:
    """Give each failure the name of its file for `replay`."""
    for cell in result.cells:
        if cell.failure:
            cell.failure.repro = str(_failures(report) / _name(cell))


def write_outputs(result: Run, report: Path | None, junit: Path | None) -> None:
    """Write the files, and remove those for `replay` of an earlier run. Raises UsageError if they cannot be written."""
    from setadam_conformance.reporting import write_html, write_json, write_junit

    try:
        if report:
            _write_repros(result, report)
            for write, name in zip((write_json, write_html), _REPORTS, strict=True):
                write(result, report / name)
        if junit:
            write_junit(result, junit)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or report or junit}: {error.strerror or error}") from error


def _write_repros(result: Run, report: Path) -> None:
    for path in _failures(report).glob("*.json"):
        if _OURS.fullmatch(path.name):
            path.unlink()
    for cell in result.cells:
        if cell.failure:
            _failures(report).mkdir(exist_ok=True)
            data = {"property": cell.property, "backend": cell.backend, "case": cell.failure.case}
            Path(cell.failure.repro).write_text(json.dumps(data, indent=1), encoding="utf-8")


def _failures(report: Path) -> Path:
    return report / "failures"


def _name(cell: Cell) -> str:
    """A name that no other cell of the run has. A backend may be a long command, so only its hash is in it."""
    backend = hashlib.sha256(cell.backend.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{cell.property}-{cell.dtype}-{backend}.json"
