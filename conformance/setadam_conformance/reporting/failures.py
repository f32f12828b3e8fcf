"""What is wrong, in the terminal: a diagnosis for each cause, with all cells that fail by it, and then the step."""

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape

from setadam_conformance.reporting.summary import troubles
from setadam_conformance.running.results import Cell, Diagnosis, Run, Trace, TraceRow

_WIDTH = 80
_IMPLIED = "    implied by the answer"
_CELL_LINES = 2
_SHORT = 2000  # characters of a request, and of code, that are printed


def print_failures(run: Run, console: Console) -> None:
    """Print everything that did not pass, what has one cause together."""
    for cells in by_cause(troubles(run)):
        for line in lines_of(cells):
            console.print(line, soft_wrap=True, highlight=False)


def by_cause(cells: Iterable[Cell]) -> list[list[Cell]]:
    """The cells of one backend that fail by one cause, together. Errors have one cause if they say the same."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        diagnosis = cell.failure.diagnosis if cell.failure else None
        if diagnosis is not None:
            cause = diagnosis.cause
        else:
            cause = _reason(cell.reason or (cell.failure.message if cell.failure else ""))
        groups.setdefault((cell.backend, cell.status, cause), []).append(cell)
    return list(groups.values())


def _reason(text: str) -> str:
    """The first line, without what differs from cell to cell: numbers, and that a program has been closed since."""
    first = text.strip().partition("\n")[0].replace("is closed, as it ", "")
    return re.sub(r"-?0x[0-9a-fp.+-]+|[0-9]+", "#", first)


def lines_of(cells: Sequence[Cell]) -> Iterator[str]:
    """What is printed of one cause, as rich markup."""
    first = min(cells, key=_size)
    failure, diagnosis = first.failure, first.failure.diagnosis if first.failure else None
    what = diagnosis.lines[0] if diagnosis else ""
    yield ""
    title = f"{first.backend}: {first.status}" + (f": {what}" if what else "")
    yield f"[bold red]{escape(title)}[/bold red]"
    for line in diagnosis.lines[1:] if diagnosis else []:
        yield from map(escape, _wrapped(line))
    yield from map(escape, cell_lines(cells))
    if first.reason:
        yield from (escape(f"  {line}") for line in first.reason.splitlines())
    if failure is None:
        return
    if diagnosis is None:
        yield from map(escape, _wrapped(failure.message))
    elif diagnosis.trace is not None:
        yield ""
        yield from (escape(f"  {line}") for line in trace_lines(diagnosis.trace))
    yield from map(escape, _again(first, diagnosis))


def _size(cell: Cell) -> int:
    """How large the failing example is."""
    return len(str(cell.failure.case["layers"])) if cell.failure else 0


def _again(cell: Cell, diagnosis: Diagnosis | None) -> Iterator[str]:
    """How to see it again: code, or the lines for a program, and the file for `replay`."""
    failure = cell.failure
    assert failure is not None
    code = diagnosis.snippet if diagnosis and diagnosis.snippet else failure.snippet
    if diagnosis and diagnosis.request:
        if len(diagnosis.request) <= _SHORT:
            yield "  two lines to pipe into the program:"
            yield diagnosis.request
    elif code and len(code) <= _SHORT:
        yield ""
        yield code.rstrip()
    if failure.repro:
        yield f"  setadam-conformance replay {failure.repro} --backend {cell.backend!r}"
    else:
        yield "  `setadam-conformance run --report DIR` writes a file to replay it"


def cell_lines(cells: Sequence[Cell]) -> list[str]:
    """The properties by their dtypes, in a line or two."""
    by_property: dict[str, list[str]] = {}
    for cell in cells:
        by_property.setdefault(cell.property, []).append(cell.dtype)
    by_dtypes: dict[str, list[str]] = {}
    for name, dtypes in by_property.items():
        by_dtypes.setdefault(" ".join(dtypes), []).append(name)
    widest = sorted(by_dtypes.items(), key=lambda item: -len(item[0]))
    text = "; ".join(f"{', '.join(names)} ({dtypes})" for dtypes, names in widest)
    lines = _wrapped("in " + text)
    if len(lines) <= _CELL_LINES:
        return lines
    return [*lines[: _CELL_LINES - 1], f"{lines[_CELL_LINES - 1][: _WIDTH - 24]} … {len(cells)} cells in all"]


def trace_lines(trace: Trace | None) -> list[str]:
    """The trace as a table in decimal: under a quantity that the backend returned, its answer, if that is another."""
    if trace is None:
        return []
    digits = _digits(trace)
    width = max(digits + 7, 10)
    labels = max(map(cell_len, (_IMPLIED, *map(_label, trace.rows)))) + 1
    lines = textwrap.wrap(trace.title, _WIDTH - 4)
    head = "".join(f"[{','.join(map(str, at))}]".rjust(width) for at in trace.coordinates)
    lines.append(" " * labels + head)
    for row in trace.rows:
        lines.append(_pad(_label(row), labels) + _numbers(row.expected, digits, width))
        answer = _numbers(row.got, digits, width)
        if not row.got:
            continue
        if row.symbol == "w̃":  # NaN: nothing is implied
            lines.append(_pad(_IMPLIED, labels) + answer.replace("nan", "  –"))
        elif row.parts or not (row.ratio or 0) <= 1 or (row.ratio is None and not lines[-1].endswith(answer)):
            lines.append(_pad("--> answer" if row.parts else "    answer", labels) + answer)
            note = f"  {_times(row.ratio)} bound" if row.ratio is not None else ""
            if cell_len(lines[-1] + note) <= _WIDTH - 2:
                lines[-1] += note
            else:
                lines.append(note.rjust(cell_len(lines[-1])))
        elif cell_len(lines[-1]) <= _WIDTH - 12:
            lines[-1] += "  the same"
    return lines


def _times(ratio: float) -> str:
    return f"{ratio:.0e} ×".replace("e+0", "e").replace("e+", "e") if 1e4 <= ratio < math.inf else f"{ratio:.3g} ×"


def _digits(trace: Trace) -> int:
    """As few digits as show that the quantity that parts is another."""
    parted = [row for row in trace.rows if row.parts]
    for digits in (5, 8, 12):
        if all(_numbers(row.got, digits, 0) != _numbers(row.expected, digits, 0) for row in parted):
            return digits
    return 17


def _label(row: TraceRow) -> str:
    return f"{_pad(row.symbol, 6)}{'= ' + row.formula if row.formula else ''}"


def _numbers(values: Sequence[float], digits: int, width: int) -> str:
    return "".join(f"{x:.{digits}g}".rjust(width) for x in values)


def _pad(text: str, width: int) -> str:
    """Text padded to a number of columns: a tilde or a hat over a letter takes none."""
    return text + " " * (width - cell_len(text))


def _wrapped(text: str) -> list[str]:
    return [
        line
        for part in text.splitlines()
        for line in textwrap.wrap(part, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    ]
