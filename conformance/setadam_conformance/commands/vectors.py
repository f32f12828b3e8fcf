"""`vectors`: lint or generate the test vectors, or check backends against them."""

import argparse
from pathlib import Path

from setadam_conformance.commands.common import (
    BACKEND,
    CONFORMING,
    KIT,
    NONCONFORMING,
    VACUOUS,
    Parsers,
    reporting_errors,
)
from setadam_conformance.protocol import Capabilities, ProtocolError
from setadam_conformance.running import backends
from setadam_conformance.running.runner import adapter_of, close_adapters
from setadam_conformance.running.workers import claims_of


def add_to(parsers: Parsers) -> None:
    """The command and its options."""
    parser = parsers.add_parser("vectors", help="the test vectors: lint, generate, check")
    parser.set_defaults(command=vectors)
    parser.add_argument("action", choices=["lint", "generate", "check"])
    parser.add_argument("--folder", type=Path, help="default: the vectors that came with the kit")
    parser.add_argument("--backend", action="append", default=[], metavar="NAME")
    parser.add_argument("--device", default="cpu")


@reporting_errors
def vectors(args: argparse.Namespace) -> int:
    """Lint or generate the vectors, or check backends against them."""
    from setadam_conformance import vectors as files

    folder = args.folder or files.vectors_folder()
    if args.action == "generate":
        files.generate(folder)
        return CONFORMING
    if args.action == "lint":
        problems = files.lint(folder)
        print("\n".join(problems) or f"{folder}: no problems")
        return KIT if problems else CONFORMING
    here: dict[backends.Source, bool] = {}
    results: list[files.VectorResult] = []
    broken = False
    for source in backends.select(args.backend):
        claims = claims_of(source, args.device)
        here[source] = isinstance(claims, Capabilities)
        if not isinstance(claims, Capabilities):
            print(f"{source.name} did not run here: {claims}")
            broken |= isinstance(claims, ProtocolError)
            continue
        try:
            found = files.check(adapter_of(source, args.device), folder, claims.dtypes)
        except ProtocolError as error:
            print(f"{source.name} broke the protocol: {error}")
            broken = True
            continue
        print(f"{source.name}: {sum(result.conforms for result in found)} of {len(found)} vectors")
        print(*(f"  {result}\n" for result in found if not result.conforms), sep="", end="")
        results += found
    close_adapters()
    if broken or backends.absent(args.backend, here):
        return BACKEND
    if not results:
        return VACUOUS
    return CONFORMING if all(result.conforms for result in results) else NONCONFORMING
