"""What each command of `setadam-conformance` does. Returns an exit code; see cli.py."""

import argparse
import contextlib
import json
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime
from functools import wraps

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from setadam_conformance import backends, expectations
from setadam_conformance.bench import NonconformingError
from setadam_conformance.case import case_from_json
from setadam_conformance.examples import quietly
from setadam_conformance.plan import PROFILES, Plan, plan
from setadam_conformance.properties import PROPERTIES, Property
from setadam_conformance.protocol import Capabilities, ProtocolError
from setadam_conformance.results import FAILING, Backend, Cell, Run
from setadam_conformance.runner import adapter_of, bench_for, close_adapters
from setadam_conformance.workers import Claims, Workers, claims_of

Command = Callable[[argparse.Namespace], int]


class UsageError(Exception):
    """An argument that the parser could not check."""


def _reporting_errors(command: Command) -> Command:
    @wraps(command)
    def wrapped(args: argparse.Namespace) -> int:
        try:
            return command(args)
        except (UsageError, expectations.ExpectationError) as error:
            print(f"setadam-conformance: {error}", file=sys.stderr)
            return 2
        except (backends.BackendError, ProtocolError) as error:
            print(f"setadam-conformance: {error}", file=sys.stderr)
            return 3

    return wrapped


@_reporting_errors
def run(args: argparse.Namespace) -> int:
    """Check backends and print a verdict."""
    from setadam_conformance.reporting import print_tables

    console = Console(width=None if sys.stdout.isatty() else 110)  # a log has no width of its own
    for name in args.property:
        _property(name)
    excused = expectations.read(args.expect) if args.expect else []
    started, start = datetime.now(UTC), time.perf_counter()
    sources = backends.select(args.backend)
    with Workers(args.jobs, args.patience) as workers:
        claims = workers.claims(sources, args.device)
        cells = plan(
            {source: found for source, found in claims.items() if isinstance(found, Capabilities)},
            profile=PROFILES[args.profile],
            seed=args.seed,
            shard=args.shard,
            device=args.device,
            dtypes=tuple(args.dtype),
            properties=tuple(args.property),
            max_examples=args.max_examples,
        )
        skipped, left = _set_aside(cells, excused)
        done = _run_cells(left, workers, excused, console)
    complete = len(done) == len(left)
    done = [*skipped, *done, *_broken(claims, args.device)]
    if complete:
        done.extend(_unused(excused))
    order = {name: i for i, name in enumerate(PROPERTIES)}
    done.sort(key=lambda c: (c.backend, order.get(c.property, -1), c.dtype))

    result = Run(
        profile=args.profile,
        seed=args.seed,
        shard=args.shard,
        started=started.isoformat(timespec="seconds"),
        seconds=time.perf_counter() - start,
        environment=environment(),
        backends=[_described(source, args.device, found) for source, found in claims.items()],
        cells=done,
        complete=complete,
    )
    here = {source: not isinstance(found, str) for source, found in claims.items()}
    result.exit_code = exit_code(result, lacking=bool(backends.absent(args.backend, here)))
    _write(result, args)
    print_tables(result, console, full=not args.summary)
    return result.exit_code


def exit_code(result: Run, lacking: bool) -> int:
    """The verdict of a run as a number; `lacking`: for something that was named there is no backend here."""
    if any(cell.status == "error" and cell.reason.startswith("the kit failed") for cell in result.cells):
        return 5
    if lacking or any(cell.status == "error" for cell in result.cells):
        return 3
    if any(cell.status in FAILING for cell in result.cells):
        return 1
    if not result.complete or not any(cell.status in ("pass", "xfail") for cell in result.cells):
        return 4
    return 4 if any(cell.status == "vacuous" for cell in result.cells) else 0


def environment() -> dict[str, str]:
    """What a verdict may depend on, apart from the backends' own versions."""
    names = ("setadam", "numpy", "hypothesis", "ml_dtypes", "mpmath", "array-api-compat")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        **backends.installed(*names),
    }


@_reporting_errors
def list_all(args: argparse.Namespace) -> int:
    """List backends, with the reason where one cannot run, and properties."""
    print("Backends")
    for source in backends.known().values():
        found = claims_of(source, "cpu")
        if isinstance(found, Capabilities):
            print(f"  {source.name:<16} {', '.join(found.dtypes)}")
        else:
            print(f"  {source.name:<16} {'not here' if isinstance(found, str) else 'broken'}: {found}")
    print("Properties")
    for name, prop in PROPERTIES.items():
        print(f"  {name:<30} {prop.explanation.partition(chr(10) * 2)[0].replace(chr(10), ' ')}")
    return 0


@_reporting_errors
def explain(args: argparse.Namespace) -> int:
    """Print a property's reason and source."""
    prop = _property(args.property)
    print(f"{prop.name}\n\n{prop.explanation}\n\nDtypes: {', '.join(sorted(prop.dtypes))}.", end="")
    print(f" Needs the options: {', '.join(sorted(prop.needs))}." if prop.needs else "")
    return 0


@_reporting_errors
def replay(args: argparse.Namespace) -> int:
    """Run a failing example again: 1 if it still fails, 0 if not."""
    try:
        data = json.loads(args.file.read_text())
        name, prop, case = data["backend"], _property(data["property"]), case_from_json(data["case"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{args.file} is no replay file: {error!r}") from error
    (source, *_) = backends.select([args.backend or name])
    try:
        adapter = adapter_of(source, args.device)
    except (ImportError, RuntimeError) as error:
        raise backends.BackendError(f"{source.name} cannot run here: {error}") from error
    cell = Plan(prop.name, source, case.dtype, args.device, 1, 1, 0, (1, 1))
    try:
        with quietly():
            prop.check(bench_for(adapter, cell), case)
    except NonconformingError as error:
        print(f"{source.name} still breaks {prop.name}: {error.message}")
        return 1
    print(f"{source.name} keeps {prop.name} on this example")
    return 0


@_reporting_errors
def selftest(args: argparse.Namespace) -> int:
    """Show that the kit rejects every seeded fault and no correct variant: 5 if it does not."""
    from setadam_conformance.teeth.selftest import PARTS, main

    if args.markdown and args.only:
        raise UsageError("--markdown writes all tables: not with --only")
    parts = args.only or PARTS
    return 0 if main(args.profile, args.markdown, parts=parts, layers=args.layers, jobs=args.jobs) else 5


@_reporting_errors
def vectors(args: argparse.Namespace) -> int:
    """Lint or generate the vectors, or check backends against them."""
    from setadam_conformance import vectors as files

    folder = args.folder or files.vectors_folder()
    if args.action == "generate":
        files.generate(folder)
        return 0
    if args.action == "lint":
        problems = files.lint(folder)
        print("\n".join(problems) or f"{folder}: no problems")
        return 5 if problems else 0
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
        return 3
    return 4 if not results else 0 if all(result.conforms for result in results) else 1


@_reporting_errors
def diff(args: argparse.Namespace) -> int:
    """Compare two reports, files or the folders they are in: 1 if something got worse."""
    from setadam_conformance.reporting import diff as compare
    from setadam_conformance.reporting import from_json, print_diff

    try:
        files = [path / "report.json" if path.is_dir() else path for path in (args.a, args.b)]
        a, b = (from_json(json.loads(file.read_text())) for file in files)
    except (OSError, ValueError) as error:
        raise UsageError(f"not a report: {error}") from error
    return 1 if print_diff(compare(a, b), Console()) else 0


def _property(name: str) -> Property:
    if name not in PROPERTIES:
        raise UsageError(f"no property is called {name!r}; known: {', '.join(PROPERTIES)}")
    return PROPERTIES[name]


def _described(source: backends.Source, device: str, claims: Claims) -> Backend:
    """A backend for the report."""
    entry = Backend(source.name, source.framework, device, backends.versions(source.framework))
    if isinstance(claims, str):
        entry.missing = claims
    elif isinstance(claims, Capabilities):
        entry.capabilities = {k: sorted(x) if isinstance(x, frozenset) else x for k, x in asdict(claims).items()}
    return entry


def _broken(claims: dict[backends.Source, Claims], device: str) -> list[Cell]:
    """A cell for each backend that could not even be loaded, as others are judged all the same."""
    return [
        Cell("loading", source.name, "any", device, status="error", reason=str(found))
        for source, found in claims.items()
        if isinstance(found, ProtocolError)
    ]


def _set_aside(cells: list[Plan], excused: list[expectations.Expectation]) -> tuple[list[Cell], list[Plan]]:
    """Cells that are skipped on purpose, and those that are left to run."""
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
    """What came of the cells: of those that were done, if Ctrl-C ends the run."""
    done: list[Cell] = []
    columns = (TextColumn("{task.description:<46}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress, contextlib.suppress(KeyboardInterrupt):
        task = progress.add_task("starting", total=len(cells))
        for cell in workers.run(cells):
            found = expectations.find(excused, cell.property, cell.backend, cell.dtype)
            done.append(expectations.apply(cell, found, date.today()) if found else cell)
            progress.update(task, advance=1, description=f"{cell.property} {cell.backend} {cell.dtype}")
    return done


def _unused(excused: list[expectations.Expectation]) -> list[Cell]:
    """An expectation that fitted nothing is as stale as one that has lapsed."""
    return [
        Cell(e.property, e.backend, e.dtype, status="lapsed", reason=f"the expectation fits nothing: {e.reason}")
        for e in excused
        if not e.used
    ]


def _write(result: Run, args: argparse.Namespace) -> None:
    from setadam_conformance.reporting import write_html, write_json, write_junit

    if args.report:
        args.report.mkdir(parents=True, exist_ok=True)
        for cell in result.cells:
            if cell.failure:
                stem = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{cell.property}-{cell.backend}-{cell.dtype}")
                path = args.report / f"{stem}.json"
                cell.failure.repro = str(path)
                data = {"property": cell.property, "backend": cell.backend, "case": cell.failure.case}
                path.write_text(json.dumps(data, indent=1))
        write_json(result, args.report / "report.json")
        write_html(result, args.report / "report.html")
    if args.junit:
        args.junit.parent.mkdir(parents=True, exist_ok=True)
        write_junit(result, args.junit)
