"""`run`: check backends and print a verdict."""

import argparse
import contextlib
import os
import sys
import time
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from setadam_conformance.commands import outputs
from setadam_conformance.commands.common import Parsers, positive, property_named, reporting_errors, seconds
from setadam_conformance.protocol import Capabilities, ProtocolError
from setadam_conformance.running import backends, expectations
from setadam_conformance.running.plan import PROFILES, Plan, plan
from setadam_conformance.running.results import Cell
from setadam_conformance.running.workers import Claims, Workers
from setadam_conformance.verdicts import concluded, explain


def add_to(parsers: Parsers) -> None:
    """The command and its options."""
    parser = parsers.add_parser("run", help="check backends and print a verdict")
    parser.set_defaults(command=run)
    parser.add_argument(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help="a registered backend, a framework, package.module:Adapter, or cmd:'program args'; "
        "may be repeated; default: all that can run here",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda:0")
    parser.add_argument("--dtype", action="append", default=[], choices=["float64", "float32", "bfloat16", "float16"])
    parser.add_argument("--property", action="append", default=[], metavar="NAME", help="see `list`; may be repeated")
    parser.add_argument(
        "--about",
        choices=["arithmetic", "interface"],
        help="only the properties of the step's numbers, or only those of what it may write and must refuse",
    )
    parser.add_argument("--profile", default="default", choices=["quick", "default", "deep"])
    parser.add_argument("--max-examples", type=positive, metavar="N", help="at most N examples of each property")
    parser.add_argument("--seed", type=int, default=0, help="a different seed draws different examples")
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="the I-th of N equal parts")
    parser.add_argument(
        "--jobs",
        type=positive,
        default=min(max(os.cpu_count() or 1, 2), 8),
        metavar="N",
        help="worker processes (default: as many as there are cores, from 2 to 8); 1 runs everything in this process",
    )
    parser.add_argument(
        "--patience",
        type=seconds,
        default=round(backends.PATIENCE),
        metavar="SECONDS",
        help="time limit for loading a backend and for one example, after which its worker is ended; for a program, of "
        "each reply (default: %(default)s; with --jobs 1, only for programs)",
    )
    parser.add_argument("--expect", type=Path, metavar="FILE", help="known failures (TOML), each with a date")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.json, report.html and repro files")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--summary", action="store_true", help="print only the summary table")


@reporting_errors
def run(args: argparse.Namespace) -> int:
    """Check backends and print a verdict."""
    from setadam_conformance.reporting import print_tables

    console = Console(emoji=False, width=None if sys.stdout.isatty() else 80)  # a log file has no width
    for name in args.property:
        property_named(name)
    outputs.check_outputs(args.report, args.junit)
    excused = expectations.read(args.expect) if args.expect else []
    started = time.perf_counter()
    sources = backends.select(args.backend)
    with Workers(args.jobs, args.patience) as workers:
        claims = workers.claims(sources, args.device)
        able = {source: found for source, found in claims.items() if isinstance(found, Capabilities)}
        cells = plan(
            able,
            profile=PROFILES[args.profile],
            seed=args.seed,
            shard=args.shard,
            device=args.device,
            dtypes=tuple(args.dtype),
            properties=tuple(args.property),
            about=args.about,
            max_examples=args.max_examples,
        )
        skipped, left = _set_aside(cells, excused)
        done = _run_cells(left, workers, excused, console)
        if len(done) == len(left):
            explain(done, sources, workers, args.device)
    complete = len(done) == len(left)
    done = [*skipped, *done, *_broken(claims, args.device)]
    if complete:
        done.extend(map(expectations.as_cell, expectations.outdated(excused, able)))
    here = {source: not isinstance(found, str) for source, found in claims.items()}
    result = concluded(
        claims,
        cells,
        done,
        profile=args.profile,
        seed=args.seed,
        device=args.device,
        started=started,
        shard=args.shard,
        complete=complete,
        whole=complete and not skipped and args.shard == (1, 1) and args.max_examples is None,
        lacking=bool(backends.absent(args.backend, here)),
    )
    if args.report:
        outputs.name_repros(result, args.report)
    print_tables(result, console, full=not args.summary)
    outputs.write_outputs(result, args.report, args.junit)
    return result.exit_code


def _shard(text: str) -> tuple[int, int]:
    """An argument type: I/N as two numbers."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"must be I/N with 1 ≤ I ≤ N, got {text!r}")
    return int(index), int(count)


def _broken(claims: dict[backends.Source, Claims], device: str) -> list[Cell]:
    """A cell for each backend that could not be loaded. The others are judged all the same."""
    return [
        Cell("loading", source.name, "any", device, status="error", reason=str(found))
        for source, found in claims.items()
        if isinstance(found, ProtocolError)
    ]


def _set_aside(cells: list[Plan], excused: list[expectations.Expectation]) -> tuple[list[Cell], list[Plan]]:
    """The cells that the expectation file skips, and those that are left to run."""
    skipped, left = [], []
    for cell in cells:
        found = next((e for e in excused if e.fits(cell.property, cell.source.name, cell.dtype)), None)
        if found and found.status == "skip" and not expectations.lapsed(found, date.today()):
            found.used += 1
            skipped.append(
                Cell(cell.property, cell.source.name, cell.dtype, cell.device, status="skip", reason=found.reason)
            )
        else:
            left.append(cell)
    return skipped, left


def _run_cells(
    cells: list[Plan], workers: Workers, excused: list[expectations.Expectation], console: Console
) -> list[Cell]:
    """The results of the cells; if Ctrl-C ends the run, of those that were done."""
    done: list[Cell] = []
    columns = (TextColumn("{task.description:<46}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress, contextlib.suppress(KeyboardInterrupt):
        task = progress.add_task("starting", total=len(cells))
        for cell in workers.run(cells):
            found = expectations.find(excused, cell.property, cell.backend, cell.dtype)
            done.append(expectations.apply(cell, found, date.today()) if found else cell)
            progress.update(task, advance=1, description=f"{cell.property} {cell.backend} {cell.dtype}")
    return done
