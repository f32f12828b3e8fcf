"""`vectors`: lint or generate the test vectors, or check backends against them."""

import argparse
from pathlib import Path

from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.commands.common import Parsers, UsageError, check_writable, reporting_errors
from setadam_conformance.protocol import Capabilities, ProtocolError
from setadam_conformance.running import backends
from setadam_conformance.running.runner import adapter_of, close_adapters
from setadam_conformance.running.workers import claims_of
from setadam_conformance.verdicts import BACKEND, CONFORMING, KIT, NONCONFORMING, VACUOUS


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
        check_writable("--folder", *(folder / f"{dtype}.json" for dtype in FORMATS))
        files.generate(folder)
        return CONFORMING
    if args.action == "lint":
        try:
            problems = files.lint(folder)
        except (OSError, ValueError) as error:
            raise UsageError(f"--folder: {folder} has no schema.json and withdrawn.json: {error}") from error
        print("\n".join(problems) or f"{folder}: no problems")
        return KIT if problems else CONFORMING
    _check_readable(folder)
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


def _check_readable(folder: Path) -> None:
    """Raise UsageError unless the folder has a file of vectors for each dtype."""
    from setadam_conformance.vectors import load

    for dtype in FORMATS:
        try:
            load(folder, dtype)
        except Exception as error:  # whatever is in the file
            raise UsageError(f"--folder: {folder / f'{dtype}.json'} is not a file of vectors: {error!r}") from error
