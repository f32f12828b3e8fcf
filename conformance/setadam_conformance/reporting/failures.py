"""What is wrong, in the terminal: each failure with its smallest example."""

from rich.console import Console
from rich.markup import escape

from setadam_conformance.reporting.summary import figure, troubles
from setadam_conformance.running.results import Cell, Run


def print_failures(run: Run, console: Console) -> None:
    """Print everything that did not pass."""
    for cell in troubles(run):
        _print_trouble(cell, console)


def _print_trouble(cell: Cell, console: Console) -> None:
    where = f"{cell.property} on {cell.backend} in {cell.dtype}: {cell.status}"
    console.print(f"[bold red]{escape(where)}[/bold red]", soft_wrap=True)
    if cell.reason:
        console.print("  " + escape(cell.reason), soft_wrap=True)
    failure = cell.failure
    if failure is None:
        return
    console.print("  " + escape(failure.message), soft_wrap=True)
    if failure.stage is not None:
        console.print(
            f"  first difference at {failure.stage}, layer {failure.layer}, coordinate {failure.coordinate}: "
            f"the formula gives {failure.expected!r}, the backend {failure.got!r}, {figure(failure.ratio)} × the bound",
            soft_wrap=True,
            highlight=False,
        )
    console.print(failure.snippet, markup=False, highlight=False, soft_wrap=True)
    if failure.repro:
        console.print(
            f"  setadam-conformance replay {failure.repro} --backend {cell.backend!r}", markup=False, soft_wrap=True
        )
