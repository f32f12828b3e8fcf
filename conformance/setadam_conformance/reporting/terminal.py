"""The tables in the terminal: property × backend × dtype, and then a summary that fits on a screen."""

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from setadam_conformance.reporting.failures import print_failures
from setadam_conformance.reporting.summary import covered, figure, headline, summary
from setadam_conformance.running.results import Cell, Run

_STYLE = {"pass": "green", "xfail": "yellow", "skip": "yellow"}


def print_tables(run: Run, console: Console, full: bool = True) -> None:
    """Print the full table (unless `full` is false), the failures, the summary, and the verdict."""
    if full:
        for table in _full(run):
            console.print(table)
    print_failures(run, console)
    console.print(_summary(run))
    reached: dict[str, list[str]] = {}
    for backend in run.backends:
        if backend.coverage:
            reached.setdefault(covered(backend.coverage), []).append(backend.name)
    for text, names in reached.items():
        console.print(escape(f"coverage: {text}: {', '.join(names)}"), soft_wrap=True, highlight=False)
    for backend in run.backends:
        if backend.missing:
            console.print(f"{escape(backend.name)} did not run here: {escape(backend.missing)}", soft_wrap=True)
    console.print(
        f"profile {run.profile}, seed {run.seed}, {run.seconds:.0f} s: [bold]{escape(headline(run))}[/bold]",
        soft_wrap=True,
        highlight=False,
    )


def _full(run: Run) -> Iterator[Table]:
    """One table for each backend: for each property and dtype the examples, ulps and error/bound, or the status."""
    dtypes = list(dict.fromkeys(cell.dtype for cell in run.cells))
    backends: dict[str, dict[str, dict[str, Cell]]] = {}
    for cell in run.cells:
        backends.setdefault(cell.backend, {}).setdefault(cell.property, {})[cell.dtype] = cell
    for backend, rows in backends.items():
        title = f"{escape(backend)}: examples, worst error/bound"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        table.add_column("property", overflow="fold")
        for dtype in dtypes:
            table.add_column(dtype, justify="right", no_wrap=True)
        for name, cells in rows.items():
            table.add_row(escape(name), *(_cell(cells.get(dtype)) for dtype in dtypes))
        yield table


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.status != "pass":
        return f"{cell.examples} [{_STYLE.get(cell.status, 'bold red')}]{cell.status}[/]"
    return f"{cell.examples} {figure(cell.ratio)}" if cell.ratio is not None else str(cell.examples)


def _summary(run: Run) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("backend", "dtype"):
        table.add_column(name, no_wrap=True)
    for name in ("passed", "examples", "error/bound"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    previous = None
    for row in summary(run):
        style = _STYLE.get(row.verdict, "bold red")
        name = "" if row.backend == previous else escape(row.backend)
        previous = row.backend
        counts = f"{row.passed}/{row.properties}", str(row.examples)
        verdict = f"[{style}]{row.verdict}[/{style}]"
        table.add_row(name, row.dtype, *counts, figure(row.ratio), verdict)
    return table
