"""From the results of cells to a verdict: what the command `run`, `check_conformance` and pytest's cells share."""

import contextlib
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from setadam_conformance.diagnosis import diagnose
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Capabilities
from setadam_conformance.reporting.summary import about
from setadam_conformance.running import backends
from setadam_conformance.running.backends import Source
from setadam_conformance.running.coverage import coverage, gaps
from setadam_conformance.running.plan import Plan
from setadam_conformance.running.results import FAILING, Backend, Cell, Coverage, Run
from setadam_conformance.running.workers import Claims, Workers

CONFORMING, NONCONFORMING, USAGE, BACKEND, VACUOUS, KIT, INTERFACE = range(7)  # exit codes


def explain(done: Sequence[Cell], sources: Sequence[Source], workers: Workers, device: str) -> None:
    """Give each failure its diagnosis. Ctrl-C ends the explaining, and nothing else."""
    failing: dict[Source, list[Cell]] = {}
    for source in sources:
        if cells := [cell for cell in done if cell.backend == source.name and cell.status == "fail" and cell.failure]:
            failing[source] = cells
    with contextlib.suppress(KeyboardInterrupt):
        for source, found in workers.each(diagnose, [(source, device, cells) for source, cells in failing.items()]):
            for cell, diagnosis in zip(failing[source], found, strict=True):
                assert cell.failure is not None
                cell.failure.diagnosis = diagnosis


def concluded(
    claims: Mapping[Source, Claims],
    planned: Sequence[Plan],
    done: Sequence[Cell],
    *,
    profile: str,
    seed: int,
    device: str,
    started: float,
    shard: tuple[int, int] = (1, 1),
    complete: bool = True,
    whole: bool = True,
    lacking: bool = False,
) -> Run:
    """The run that consists of these results, with its coverage and its verdict.

    started: of `time.perf_counter`. whole: everything that was planned ran, so that what is not covered is a gap.
    lacking: a backend that was named cannot run here.
    """
    able = {source.name: found for source, found in claims.items() if isinstance(found, Capabilities)}
    reached = coverage(planned, done, able)
    cells = [*done, *(gaps(reached, done) if whole else [])]
    order = {name: i for i, name in enumerate(PROPERTIES)}
    cells.sort(key=lambda c: (c.backend, order.get(c.property, -1), c.dtype))
    seconds = time.perf_counter() - started
    result = Run(
        profile=profile,
        seed=seed,
        shard=shard,
        started=(datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds"),
        seconds=seconds,
        environment=environment(),
        backends=[_described(source, device, found, reached.get(source.name)) for source, found in claims.items()],
        cells=cells,
        complete=complete,
    )
    result.exit_code = exit_code(result, lacking)
    return result


def exit_code(result: Run, lacking: bool) -> int:
    """The verdict of a run as an exit code. lacking: a backend that was named cannot run here."""
    if any(cell.status == "error" and cell.reason.startswith("the kit failed") for cell in result.cells):
        return KIT
    if lacking or any(cell.status == "error" for cell in result.cells):
        return BACKEND
    failing = {about(cell) for cell in result.cells if cell.status in FAILING}
    if "arithmetic" in failing:
        return NONCONFORMING
    if not result.complete or not any(cell.status in ("pass", "xfail") for cell in result.cells):
        return VACUOUS
    if any(cell.status == "vacuous" for cell in result.cells):
        return VACUOUS
    return INTERFACE if failing else CONFORMING


def environment() -> dict[str, str]:
    """The versions and the machine that a verdict may depend on, without the backends' own versions."""
    names = ("setadam", "numpy", "hypothesis", "ml_dtypes", "mpmath", "array-api-compat")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        **backends.installed(*names),
    }


def _described(source: Source, device: str, claims: Claims, reached: Coverage | None) -> Backend:
    """A backend for the report."""
    entry = Backend(source.name, source.framework, device, backends.versions(source.framework), coverage=reached)
    if isinstance(claims, str):
        entry.missing = claims
    elif isinstance(claims, Capabilities):
        entry.capabilities = {k: sorted(x) if isinstance(x, frozenset) else x for k, x in asdict(claims).items()}
    return entry
