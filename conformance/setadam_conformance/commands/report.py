"""`report diff`: compare two reports."""

import argparse
import json
from pathlib import Path

from rich.console import Console

from setadam_conformance.commands.common import CONFORMING, NONCONFORMING, Parsers, UsageError, reporting_errors


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
    from setadam_conformance.reporting import from_json, print_diff

    try:
        files = [path / "report.json" if path.is_dir() else path for path in (args.a, args.b)]
        a, b = (from_json(json.loads(file.read_text())) for file in files)
    except (OSError, ValueError) as error:
        raise UsageError(f"not a report: {error}") from error
    return NONCONFORMING if print_diff(compare(a, b), Console()) else CONFORMING
