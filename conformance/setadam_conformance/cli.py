"""`setadam-conformance`: the command line.

Exit codes: 0 conforming, 1 not, 2 usage, 3 a backend did not load or broke the protocol, 4 nothing (or
less than a property's minimum) ran, 5 the kit itself is at fault.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from setadam_conformance import commands
from setadam_conformance.workers import PATIENCE

CONFORMING, NONCONFORMING, USAGE, BACKEND, VACUOUS, KIT = 0, 1, 2, 3, 4, 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    return int(args.command(args))


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"must be I/N with 1 ≤ I ≤ N, got {text!r}")
    return int(index), int(count)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number ≥ 1, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="setadam-conformance", description=__doc__.partition("\n")[0])
    commands_of = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands_of.add_parser("run", help="check backends and print a verdict")
    run.set_defaults(command=commands.run)
    run.add_argument(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help="a registered backend, a framework, package.module:Adapter, or cmd:'program args'; "
        "may be repeated; default: all that can run here",
    )
    run.add_argument("--device", default="cpu", help="cpu (default) or cuda:0")
    run.add_argument("--dtype", action="append", default=[], choices=["float64", "float32", "bfloat16", "float16"])
    run.add_argument("--property", action="append", default=[], metavar="NAME", help="see `list`; may be repeated")
    run.add_argument("--profile", default="default", choices=["quick", "default", "deep"])
    run.add_argument("--max-examples", type=_positive, metavar="N", help="at most N examples a property")
    run.add_argument("--seed", type=int, default=0, help="another seed draws other examples")
    run.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="the I-th of N equal parts")
    run.add_argument(
        "--jobs",
        type=_positive,
        default=min(os.cpu_count() or 1, 8),
        metavar="N",
        help="worker processes; 1: none, all in this process",
    )
    run.add_argument(
        "--patience",
        type=_positive,
        default=round(PATIENCE),
        metavar="SECONDS",
        help="for one example, before its worker process is ended (default: %(default)s; not with --jobs 1)",
    )
    run.add_argument("--expect", type=Path, metavar="FILE", help="known failures (TOML), each with a date")
    run.add_argument("--report", type=Path, metavar="DIR", help="write report.json, report.html and repro files")
    run.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    run.add_argument("--summary", action="store_true", help="print the summary table alone")

    listing = commands_of.add_parser("list", help="list backends and properties")
    listing.set_defaults(command=commands.list_all)

    explain = commands_of.add_parser("explain", help="why a property must hold, and where it comes from")
    explain.set_defaults(command=commands.explain)
    explain.add_argument("property")

    replay = commands_of.add_parser("replay", help="run a failing example again, bit for bit")
    replay.set_defaults(command=commands.replay)
    replay.add_argument("file", type=Path)
    replay.add_argument("--backend", help="another backend than the one that failed")
    replay.add_argument("--device", default="cpu")

    selftest = commands_of.add_parser("selftest", help="show that the kit rejects every seeded fault")
    selftest.set_defaults(command=commands.selftest)
    selftest.add_argument("--profile", default="quick", choices=["quick", "default", "deep"])
    selftest.add_argument("--only", action="append", choices=["faults", "variants", "kit"], help="may be repeated")
    selftest.add_argument("--layers", type=_positive, metavar="N", help="sampled for each correct variant and dtype")
    selftest.add_argument("--jobs", type=_positive, metavar="N", help="worker processes; default: as many as cores")
    selftest.add_argument("--markdown", type=Path, metavar="FILE", help="write the table fault × property")

    vectors = commands_of.add_parser("vectors", help="the test vectors: lint, generate, check")
    vectors.set_defaults(command=commands.vectors)
    vectors.add_argument("action", choices=["lint", "generate", "check"])
    vectors.add_argument("--folder", type=Path, help="default: the vectors that came with the kit")
    vectors.add_argument("--backend", action="append", default=[], metavar="NAME")
    vectors.add_argument("--device", default="cpu")

    report = commands_of.add_parser("report", help="compare two reports")
    report_commands = report.add_subparsers(required=True, metavar="COMMAND")
    diff = report_commands.add_parser("diff", help="what changed from report A to report B")
    diff.set_defaults(command=commands.diff)
    diff.add_argument("a", type=Path)
    diff.add_argument("b", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
