"""`list`: all backends and properties."""

import argparse

from setadam_conformance.commands.common import Parsers, reporting_errors
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Capabilities
from setadam_conformance.running import backends
from setadam_conformance.running.workers import claims_of
from setadam_conformance.verdicts import CONFORMING


def add_to(parsers: Parsers) -> None:
    """The command and its options."""
    parser = parsers.add_parser("list", help="list backends and properties")
    parser.set_defaults(command=list_all)


@reporting_errors
def list_all(args: argparse.Namespace) -> int:
    """List backends, with the reason where one cannot run, and properties."""
    print("Backends")
    for source in backends.known().values():
        found = claims_of(source, "cpu")
        if isinstance(found, Capabilities):
            print(f"  {source.name:<16} {', '.join(found.dtypes)}")
        else:
            print(f"  {source.name:<16} {'not here' if isinstance(found, str) else 'broken'}: {found}")
    print("Published Adams (loaded only if they are named)")
    for framework in dict.fromkeys(source.framework for source in backends.published().values()):
        versions = backends.versions(framework)
        print(f"  {framework:<16} {', '.join(f'{k} {x}' for k, x in versions.items()) or 'not installed'}")
    print("Properties")
    for name, prop in PROPERTIES.items():
        print(f"  {name:<30} {prop.explanation.partition(chr(10) * 2)[0].replace(chr(10), ' ')}")
    return CONFORMING
