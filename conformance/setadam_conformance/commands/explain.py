"""`explain`: why a property must hold, and where it comes from."""

import argparse

from setadam_conformance.commands.common import Parsers, property_named, reporting_errors
from setadam_conformance.verdicts import CONFORMING


def add_to(parsers: Parsers) -> None:
    """The command and its options."""
    parser = parsers.add_parser("explain", help="why a property must hold, and where it comes from")
    parser.set_defaults(command=explain)
    parser.add_argument("property")


@reporting_errors
def explain(args: argparse.Namespace) -> int:
    """Print a property's reason and source."""
    prop = property_named(args.property)
    print(f"{prop.name}\n\n{prop.explanation}\n\nDtypes: {', '.join(sorted(prop.dtypes))}.", end="")
    print(f" Needs the options: {', '.join(sorted(prop.needs))}." if prop.needs else "")
    return CONFORMING
