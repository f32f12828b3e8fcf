"""The tables in the terminal: property × backend × dtype, and then a summary. They fit in 80 columns."""

from collections.abc import Iterator, Mapping

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from setadam_conformance.reporting.failures import print_failures
from setadam_conformance.reporting.summary import by_backend, covered, dtypes, figure, headline, short_names, summary
from setadam_conformance.running.results import Cell, Run

_STYLE = {"pass": "green", "xfail": "yellow", "skip": "yellow"}
_WIDEST_NAME = 28  # of a backend in the summary, whose other columns take 51 of 80


def print_tables(run: Run, console: Console, full: bool = True) -> None:
    """Print the full table (unless `full` is false), the failures, the summary, and the verdict."""
    names = short_names([*(b.name for b in run.backends), *(cell.backend for cell in run.cells)], _WIDEST_NAME)
    if full:
        for title, table in _full(run, names):
            console.print(f"[italic]{escape(title)}[/italic]", table, "", sep="\n", highlight=False)
    print_failures(run, console)
    console.print("", _summary(run, names), "", sep="\n")
    reached: dict[str, list[str]] = {}
    for backend in run.backends:
        if backend.coverage:
            reached.setdefault(covered(backend.coverage), []).append(names[backend.name])
    lines = [f"{short} is {name}" for name, short in names.items() if short != name]
    lines += [f"coverage: {text}: {', '.join(those)}" for text, those in reached.items()]
    lines += [f"{names[b.name]} did not run here: {b.missing}" for b in run.backends if b.missing]
    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)
    console.print(
        f"profile {run.profile}, seed {run.seed}, {run.seconds:.0f} s: [bold]{escape(headline(run))}[/bold]",
        soft_wrap=True,
        highlight=False,
    )


def _full(run: Run, names: Mapping[str, str]) -> Iterator[tuple[str, Table]]:
    """A title and a table for each backend: of each property the examples, and by dtype error/bound or the status."""
    for backend, properties in by_backend(run).items():
        columns = dtypes(cell for cells in properties.values() for cell in cells.values())
        table = _table()
        table.add_column("property", overflow="fold")
        for name in ("examples", *columns):
            table.add_column(name, justify="right", no_wrap=True)
        for name, cells in properties.items():
            examples = sum(cell.examples for cell in cells.values())
            table.add_row(escape(name), str(examples), *(_cell(cells.get(dtype)) for dtype in columns))
        yield f"{names[backend]}: worst error/bound", table


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.status == "pass" and cell.ratio is not None:
        return figure(cell.ratio)
    return _styled(cell.status)


def _summary(run: Run, names: Mapping[str, str]) -> Table:
    table = _table()
    for name in ("backend", "dtype"):
        table.add_column(name, no_wrap=True)
    for name in ("passed", "examples", "error/bound"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    previous = None
    for row in summary(run):
        name = "" if row.backend == previous else escape(names[row.backend])
        previous = row.backend
        counts = f"{row.passed}/{row.properties}", str(row.examples)
        table.add_row(name, row.dtype, *counts, figure(row.ratio), _styled(row.verdict))
    return table


def _table() -> Table:
    """An empty table with two spaces between its columns."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)


def _styled(status: str) -> str:
    return f"[{_STYLE.get(status, 'bold red')}]{status}[/]"
