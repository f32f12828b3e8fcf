"""What does not conform: for each cause its diagnosis, where it shows, one step, and the examples, folded."""

from collections.abc import Iterator, Sequence
from html import escape

from setadam_conformance.reporting.failures import by_cause, trace_lines
from setadam_conformance.reporting.page.markup import anchor, fold, status
from setadam_conformance.reporting.page.picture import explanation
from setadam_conformance.reporting.summary import dtypes, figure, troubles, worst_status
from setadam_conformance.running.results import Cell, Diagnosis, Failure, Run


def failures(run: Run) -> str:
    """A part for each cause on a backend. The first one of each backend is open."""
    parts: list[str] = []
    backends: set[str] = set()
    places: set[str] = set()
    for cells in by_cause(troubles(run)):
        backend = cells[0].backend
        is_first = backend not in backends
        if is_first:
            parts.append(f"<h3>{escape(backend)}</h3>")
            backends.add(backend)
        new = [place for cell in cells if (place := anchor(cell.property, backend)) not in places]
        places.update(new)
        marks = "".join(f'<span id="{place}"></span>' for place in dict.fromkeys(new))  # where links to it lead
        parts.append(fold(_title(cells), marks, *_why(cells), _where(cells), is_open=is_first))
    return "".join(parts)


def _title(cells: Sequence[Cell]) -> str:
    return f"{status(worst_status(cells))} <b>{escape(_headline(cells[0]))}</b>"


def _headline(cell: Cell) -> str:
    """What is wrong, in one line."""
    failure = cell.failure
    found = failure.diagnosis.lines[0] if failure and failure.diagnosis else ""
    said = found or cell.reason or (failure.message if failure else "")
    return said.strip().partition("\n")[0][:200]


def _where(cells: Sequence[Cell]) -> str:
    """The properties and dtypes, and then the smallest example of each, folded."""
    items = []
    for name in dict.fromkeys(cell.property for cell in cells):
        those = [cell for cell in cells if cell.property == name]
        text = f"<b>{escape(name)}</b> in {escape(', '.join(dtypes(those)))}. {escape(explanation(name))}"
        items.append(f"<li>{text}</li>")
    smallest = fold("The smallest example of each", *(part for cell in cells for part in _smallest(cell)))
    return f"<p>It shows in:</p><ul>{''.join(items)}</ul>" + (smallest if len(cells) > 1 else "")


def _why(cells: Sequence[Cell]) -> Iterator[str]:
    """What is known of the cause, and how to see it again."""
    first = cells[0]
    if first.reason.strip() not in ("", _headline(first)):
        yield f"<pre>{escape(first.reason)}</pre>"
    if first.failure is None:
        return
    found = first.failure.diagnosis
    if found:
        yield f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in found.lines[1:])}</ul>"
    if found and found.trace:
        yield f"<pre>{escape(chr(10).join(trace_lines(found.trace)))}</pre>"
    else:
        yield _message(first.failure)
    yield from _again(first, first.failure, found)


def _message(failure: Failure) -> str:
    text = f"<p>{escape(failure.message)}</p>"
    if failure.stage is None:
        return text
    return (
        f"{text}<p>First difference at {escape(failure.stage)} of layer {failure.layer}, coordinate "
        f"{failure.coordinate}: the formula gives {failure.expected!r}, the backend {failure.got!r}, "
        f"{figure(failure.ratio)} × the bound.</p>"
    )


def _again(cell: Cell, failure: Failure, found: Diagnosis | None) -> Iterator[str]:
    if found and found.request:
        yield fold("Lines to pipe into the program", f"<pre>{escape(found.request)}</pre>")
    code = found.snippet if found and found.snippet else failure.snippet
    if code:
        yield fold("The example as code", f"<pre>{escape(code)}</pre>")
    yield _replay(cell, failure)


def _smallest(cell: Cell) -> Iterator[str]:
    yield f"<h4>{escape(cell.property)} in {escape(cell.dtype)}</h4>"
    if cell.failure:
        yield _message(cell.failure)
        yield fold("As code", f"<pre>{escape(cell.failure.snippet)}</pre>")
        yield _replay(cell, cell.failure)


def _replay(cell: Cell, failure: Failure) -> str:
    if not failure.repro:
        return ""
    return f"<pre>{escape(f'setadam-conformance replay {failure.repro} --backend {cell.backend!r}')}</pre>"
