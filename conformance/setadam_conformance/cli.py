"""`setadam-conformance`: the command line.

Exit codes: 0 conforming, 1 not conforming, 2 wrong arguments, 3 a backend did not load or broke the protocol, 4 nothing
(or less than a property's minimum) ran, 5 the kit itself is at fault.
"""

import argparse
import sys
from collections.abc import Sequence

from setadam_conformance.commands import explain, listing, replay, report, run, selftest, vectors


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    return int(args.command(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="setadam-conformance", description=__doc__.partition("\n")[0])
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (run, listing, explain, replay, selftest, vectors, report):
        command.add_to(parsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
