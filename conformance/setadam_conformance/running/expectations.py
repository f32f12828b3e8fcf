"""Known failures, and until when they are accepted: the file for `--expect`.

The file is TOML, an array of tables `[[expect]]`. Each has `property`, `backend` and `dtype` (shell patterns; "*" if
left out), `status` ("xfail" or "skip"), a `reason`, and `expires`, the date on which it lapses. The run fails if an
expected failure passes, if an expectation has lapsed, and if one is outdated (see `outdated`): such a list would hide
failures. One file can serve several runs, each of a part of the backends, dtypes, properties or profiles.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Capabilities
from setadam_conformance.running.backends import Source, registered
from setadam_conformance.running.files import read_text
from setadam_conformance.running.plan import PROFILES, plan
from setadam_conformance.running.results import Cell


class ExpectationError(ValueError):
    """The expectation file is not valid."""


@dataclass
class Expectation:
    """One entry of the file. `used` counts the cells that it matched."""

    property: str
    backend: str
    dtype: str
    status: str
    reason: str
    expires: date
    used: int = field(default=0, compare=False)

    def fits(self, property_name: str, backend: str, dtype: str) -> bool:
        return (
            fnmatchcase(property_name, self.property)
            and fnmatchcase(backend, self.backend)
            and fnmatchcase(dtype, self.dtype)
        )


def read(path: Path) -> list[Expectation]:
    """The entries of the file. Raises ExpectationError, which names the entry, if a field is missing or wrong."""
    try:
        tables = tomllib.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ExpectationError(f"cannot read the expectations in {path}: {error}") from error
    entries = tables.pop("expect", [])
    if tables or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ExpectationError(f"{path} must be an array of tables [[expect]], and nothing else")
    return [_entry(entry, f"{path}, entry {i}") for i, entry in enumerate(entries, start=1)]


def _entry(entry: dict[str, object], where: str) -> Expectation:
    known = {"property", "backend", "dtype", "status", "reason", "expires"}
    if unknown := set(entry) - known:
        raise ExpectationError(f"{where}: unknown field {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
    if entry.get("status") not in ("xfail", "skip"):
        raise ExpectationError(f"{where}: status must be 'xfail' or 'skip', got {entry.get('status')!r}")
    if not isinstance(entry.get("reason"), str) or not entry["reason"]:
        raise ExpectationError(f"{where}: reason must be a sentence that says why, got {entry.get('reason')!r}")
    if type(entry.get("expires")) is not date:
        raise ExpectationError(f"{where}: expires must be a date such as 2027-01-31, got {entry.get('expires')!r}")
    names = {name: entry.get(name, "*") for name in ("property", "backend", "dtype")}
    for name, pattern in names.items():
        if not isinstance(pattern, str):
            raise ExpectationError(f"{where}: {name} must be a name or a pattern, got {pattern!r}")
    return Expectation(**names, status=str(entry["status"]), reason=str(entry["reason"]), expires=entry["expires"])  # type: ignore[arg-type]


def lapsed(expectation: Expectation, today: date) -> bool:
    """Whether the expectation has lapsed. It no longer holds on the day that it names."""
    return today >= expectation.expires


def find(expectations: Iterable[Expectation], property_name: str, backend: str, dtype: str) -> Expectation | None:
    """The first expectation that matches, counted as used."""
    for expectation in expectations:
        if expectation.fits(property_name, backend, dtype):
            expectation.used += 1
            return expectation
    return None


def apply(cell: Cell, expectation: Expectation, today: date) -> Cell:
    """The cell, its status changed by the expectation."""
    if lapsed(expectation, today):
        if cell.status == "fail":
            cell.reason = f"the expectation that it fails lapsed on {expectation.expires}: {expectation.reason}"
        else:
            cell.status = "lapsed"
            cell.reason = f"the expectation lapsed on {expectation.expires}: {expectation.reason}"
    elif cell.status == "fail":
        cell.status, cell.reason = "xfail", expectation.reason
    elif cell.status == "pass":
        cell.status, cell.reason = "xpass", f"passes, though expected to fail: {expectation.reason}"
    return cell


def outdated(expectations: Iterable[Expectation], claims: Mapping[Source, Capabilities]) -> list[Expectation]:
    """The expectations that matched no cell of this run, and could match none in any other run either.

    claims: of the backends that this run judged. An expectation is kept if it fits what this run did not select:
    another property, dtype or profile of these backends, or another backend. It is outdated if it names a property or
    dtype that does not exist, or only backends of this run that never have such a cell.
    """
    cells = [(cell.property, cell.source.name, cell.dtype) for cell in plan(claims, profile=PROFILES["deep"])]
    judged = {source.name for source in claims}
    others = registered().keys() - judged

    def is_outdated(e: Expectation) -> bool:
        if not any(fnmatchcase(p, e.property) for p in PROPERTIES) or not any(fnmatchcase(d, e.dtype) for d in FORMATS):
            return True
        if any(e.fits(*cell) for cell in cells) or any(fnmatchcase(name, e.backend) for name in others):
            return False
        return any(fnmatchcase(name, e.backend) for name in judged)

    return [e for e in expectations if not e.used and is_outdated(e)]


def as_cell(e: Expectation) -> Cell:
    """How a report shows an outdated expectation."""
    return Cell(e.property, e.backend, e.dtype, status="lapsed", reason=f"the expectation matches nothing: {e.reason}")
