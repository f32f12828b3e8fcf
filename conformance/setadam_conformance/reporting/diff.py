"""The changes between two runs: verdicts, and errors that grew but still pass."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from setadam_conformance.reporting.summary import figure
from setadam_conformance.running.results import FAILING, Cell, Run

DRIFT = 2.0  # the worst error/bound may grow by this much without being reported


@dataclass(frozen=True)
class Change:
    """One difference. `worse`: it makes run b worse."""

    what: str
    worse: bool


def diff(a: Run, b: Run) -> list[Change]:
    """The changes from a to b."""
    changes = list(_settings(a, b))
    before, after = _cells(a), _cells(b)
    for key in sorted(before.keys() | after.keys()):
        named = "{} on {} in {}".format(*key)
        if key not in after:
            changes.append(Change(f"{named} is no longer run", True))
        elif key not in before:
            changes.append(Change(f"{named} is new: {after[key].status}", _bad(after[key])))
        else:
            changes.extend(_compare(named, before[key], after[key]))
    return changes


def _settings(a: Run, b: Run) -> Iterator[Change]:
    """Differences in the settings and the environment: they explain the differences in the results."""
    for name in ("profile", "seed", "shard"):
        if getattr(a, name) != getattr(b, name):
            yield Change(f"{name} was {getattr(a, name)}, is {getattr(b, name)}", False)
    for name in sorted(a.environment.keys() | b.environment.keys()):
        old, new = (run.environment.get(name, "absent") for run in (a, b))
        if old != new:
            yield Change(f"{name} was {old}, is {new}", False)
    if a.complete and not b.complete:
        yield Change("the run was interrupted", True)
    ran = {backend.name for backend in a.backends if not backend.missing}
    for backend in b.backends:
        if backend.missing and backend.name in ran:
            yield Change(f"{backend.name} did not run: {backend.missing}", True)


def print_diff(changes: list[Change], console: Console) -> bool:
    """Print the changes. True if anything got worse."""
    for change in changes:
        mark = "[bold red]worse[/bold red] " if change.worse else "      "
        console.print(mark + escape(change.what), soft_wrap=True, highlight=False)
    if not changes:
        console.print("no difference")
    return any(change.worse for change in changes)


def _compare(named: str, a: Cell, b: Cell) -> list[Change]:
    if a.status != b.status:
        return [Change(f"{named} was {a.status}, is {b.status}", _bad(b) and not _bad(a))]
    if a.ratio is not None and b.ratio is not None and b.ratio > DRIFT * a.ratio and b.ratio > 0.1:
        return [Change(f"{named}: worst error/bound grew from {figure(a.ratio)} to {figure(b.ratio)}", True)]
    return []


def _bad(cell: Cell) -> bool:
    return cell.status in FAILING or cell.status == "vacuous"


def _cells(run: Run) -> dict[tuple[str, str, str], Cell]:
    return {(cell.property, cell.backend, cell.dtype): cell for cell in run.cells}
