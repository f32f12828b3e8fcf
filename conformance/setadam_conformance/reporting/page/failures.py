"""What does not conform: by backend and property, with the smallest failing example of each dtype."""

from collections.abc import Iterable
from html import escape

from setadam_conformance.reporting.page.markup import anchor, fold, status
from setadam_conformance.reporting.page.picture import explanation
from setadam_conformance.reporting.summary import dtypes, figure, troubles, worst_status
from setadam_conformance.running.results import Cell, Failure, Run


def failures(run: Run) -> str:
    """A part for each property that does not conform on a backend. The first one of each backend is open."""
    groups: dict[str, dict[str, list[Cell]]] = {}
    for cell in troubles(run):
        groups.setdefault(cell.backend, {}).setdefault(cell.property, []).append(cell)
    return "".join(
        f"<h3>{escape(backend)}</h3>" + "".join(_group(cells, i == 0) for i, cells in enumerate(properties.values()))
        for backend, properties in groups.items()
    )


def _group(cells: list[Cell], is_open: bool) -> str:
    first, order = cells[0], dtypes(cells)
    title = f"<b>{escape(first.property)}</b> {status(worst_status(cells))} in {escape(', '.join(order))}"
    meaning = f"<p>{escape(explanation(first.property))}</p>"
    body = [
        part
        for cell in sorted(cells, key=lambda c: order.index(c.dtype))
        for part in _cell(cell, has_title=len(cells) > 1)
    ]
    return fold(title, meaning, *body, name=anchor(first.property, first.backend), is_open=is_open)


def _cell(cell: Cell, has_title: bool) -> Iterable[str]:
    if has_title:
        yield f"<h4>{escape(cell.dtype)}: {status(cell.status)}</h4>"
    if cell.reason:
        yield f"<pre>{escape(cell.reason)}</pre>"
    if cell.failure is not None:
        yield from _failure(cell, cell.failure)


def _failure(cell: Cell, failure: Failure) -> Iterable[str]:
    yield f"<p>{escape(failure.message)}</p>"
    if failure.stage is not None:
        yield (
            f"<p>First difference at {escape(failure.stage)} of layer {failure.layer}, coordinate "
            f"{failure.coordinate}: the formula gives {failure.expected!r}, the backend {failure.got!r}, "
            f"{figure(failure.ratio)} × the bound.</p>"
        )
    if failure.snippet:
        yield fold("The example as code", f"<pre>{escape(failure.snippet)}</pre>")
    if failure.repro:
        command = f"setadam-conformance replay {failure.repro} --backend {cell.backend!r}"
        yield f"<pre>{escape(command)}</pre>"
