"""`selftest`: show that the kit rejects every seeded fault and no correct variant."""

import argparse
from pathlib import Path

from setadam_conformance.commands.common import Parsers, UsageError, check_writable, positive, reporting_errors
from setadam_conformance.verdicts import CONFORMING, KIT


def add_to(parsers: Parsers) -> None:
    """The command and its options."""
    parser = parsers.add_parser("selftest", help="show that the kit rejects every seeded fault")
    parser.set_defaults(command=selftest)
    parser.add_argument("--profile", default="quick", choices=["quick", "default", "deep"])
    parser.add_argument(
        "--only", action="append", choices=["faults", "circumstances", "variants", "kit"], help="may be repeated"
    )
    parser.add_argument(
        "--layers", type=positive, metavar="N", help="layers to sample for each correct variant and dtype"
    )
    parser.add_argument("--jobs", type=positive, metavar="N", help="worker processes; default: as many as cores")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table fault × property")


@reporting_errors
def selftest(args: argparse.Namespace) -> int:
    """Show that the kit rejects every seeded fault and no correct variant: 5 if it does not."""
    from setadam_conformance.teeth.selftest import PARTS, main

    if args.markdown and args.only:
        raise UsageError("--markdown writes all tables, so it cannot be used with --only")
    if args.markdown:
        check_writable("--markdown", args.markdown)
    parts = args.only or PARTS
    sound = main(args.profile, args.markdown, parts=parts, layers=args.layers, jobs=args.jobs)
    return CONFORMING if sound else KIT
