"""`replay`: run a failing example again, bit for bit."""

import argparse
from pathlib import Path

from setadam_conformance.adapters.command import CommandAdapter, request_lines
from setadam_conformance.cases.case import Case, case_from_json
from setadam_conformance.commands.common import Parsers, UsageError, property_named, reporting_errors
from setadam_conformance.diagnosis import trace_of
from setadam_conformance.diagnosis.failures import rebuilt
from setadam_conformance.judging.bench import Bench, NonconformingError
from setadam_conformance.running import backends
from setadam_conformance.running.examples import quietly
from setadam_conformance.running.files import read_json
from setadam_conformance.running.plan import Plan
from setadam_conformance.running.runner import adapter_of, bench_for
from setadam_conformance.verdicts import CONFORMING, NONCONFORMING


def add_to(parsers: Parsers) -> None:
    """The command and its options."""
    parser = parsers.add_parser("replay", help="run a failing example again, bit for bit")
    parser.set_defaults(command=replay)
    parser.add_argument("file", type=Path)
    parser.add_argument("--backend", help="another backend than the one that failed")
    parser.add_argument("--device", default="cpu")


@reporting_errors
def replay(args: argparse.Namespace) -> int:
    """Print the step of a failing example, and run its property again: 1 if it still fails, 0 if not."""
    try:
        data = read_json(args.file)
        name, prop, case = str(data["backend"]), property_named(data["property"]), case_from_json(data["case"])
    except UsageError:
        raise
    except Exception as error:  # whatever is in the file
        raise UsageError(f"{args.file} is not a replay file: {error!r}") from error
    if (
        not args.backend and name not in backends.registered()
    ):  # a file is data: it must not choose what is run or imported
        raise UsageError(
            f"{args.file} asks for {name!r}, which is not registered here: if you trust it, give --backend"
        )
    (source, *_) = backends.select([args.backend or name])
    try:
        adapter = adapter_of(source, args.device)
    except (ImportError, RuntimeError) as error:
        raise backends.BackendError(f"{source.name} cannot run here: {error}") from error
    cell = Plan(prop.name, source, case.dtype, args.device, 1, 1, 0, (1, 1))
    try:
        with quietly():
            bench, case = bench_for(adapter, cell), rebuilt(case)
            _print_trace(bench, case)
            prop.check(bench, case)
    except NonconformingError as error:
        print(f"{source.name} still fails {prop.name}: {error.message}")
        return NONCONFORMING
    print(f"{source.name} passes {prop.name} on this example")
    return CONFORMING


def _print_trace(bench: Bench, case: Case) -> None:
    """Print the step of the example, formula beside answer, and for a program the lines to pipe into it."""
    from setadam_conformance.reporting.failures import trace_lines

    try:
        answer = bench.step(case)
    except NonconformingError as error:  # the property may expect that
        print(f"the step itself {error.message}\n")
        return
    print(*trace_lines(trace_of(case, answer, bench.claims)), "", sep="\n")
    if isinstance(bench.adapter, CommandAdapter):
        print("two lines to pipe into the program:", request_lines(case), "", sep="\n")
