"""`report diff`: compare two reports."""

import argparse
from pathlib import Path

from rich.console import Console

from setadam_conformance.commands.common import Parsers, UsageError, reporting_errors
from setadam_conformance.running.files import read_json
from setadam_conformance.running.results import Run
from setadam_conformance.verdicts import CONFORMING, NONCONFORMING


def add_to(parsers: Parsers) -> None:
    """The command and its options."""
    report = parsers.add_parser("report", help="compare two reports")
    report_commands = report.add_subparsers(required=True, metavar="COMMAND")
    parser = report_commands.add_parser("diff", help="what changed from report A to report B")
    parser.set_defaults(command=diff)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)


@reporting_errors
def diff(args: argparse.Namespace) -> int:
    """Compare two reports, files or the folders they are in: 1 if something got worse."""
    from setadam_conformance.reporting import diff as compare
    from setadam_conformance.reporting import print_diff

    a, b = _read(args.a), _read(args.b)
    return NONCONFORMING if print_diff(compare(a, b), Console(emoji=False)) else CONFORMING


def _read(path: Path) -> Run:
    """The run in a report, or in the folder of one. Raises UsageError."""
    from setadam_conformance.reporting import from_json

    file = path / "report.json" if path.is_dir() else path
    try:
        return from_json(read_json(file))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is not a report: {error}") from error
