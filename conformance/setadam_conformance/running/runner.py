"""Running one cell: a property on one backend in one dtype.

A cell's examples depend only on the seed, the shard and the cell's name. So a cell has the same result alone, among
others, and in any process.
"""

import faulthandler
import statistics
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis.errors import Unsatisfiable

from setadam_conformance.cases.case import Case, case_to_json
from setadam_conformance.cases.reading import classes_in
from setadam_conformance.judging.bench import Bench, NonconformingError
from setadam_conformance.judging.judge import STAGES
from setadam_conformance.properties import PROPERTIES, Property
from setadam_conformance.protocol import Adapter, ProtocolError
from setadam_conformance.running.backends import PATIENCE, Given, Source, registered
from setadam_conformance.running.examples import examples, quietly, shrink
from setadam_conformance.running.loading import loading
from setadam_conformance.running.plan import Plan
from setadam_conformance.running.results import Cell, Failure, Stage
from setadam_conformance.running.snippet import snippet

_ADAPTERS: dict[tuple[Source, str], Adapter] = {}  # of this process


def adapter_of(source: Source, device: str, patience: float = PATIENCE) -> Adapter:
    """The only adapter of the backend in this process.

    patience: seconds that a program may take for a reply. Raises ImportError or RuntimeError if it cannot run here, and
    ProtocolError if it is not an adapter.
    """
    key = (source, device)
    if key not in _ADAPTERS:
        with loading(source.name):
            _ADAPTERS[key] = source.make(device, patience)
    return _ADAPTERS[key]


def close_adapters() -> None:
    """Close all adapters of this process, and the programs that they started. Those of a caller are the caller's."""
    while _ADAPTERS:
        (source, _), adapter = _ADAPTERS.popitem()
        if not isinstance(source, Given):
            getattr(adapter, "close", lambda: None)()


@contextmanager
def ending_after(seconds: float | None) -> Iterator[None]:
    """If the block takes longer than this, print where the process is, and end it. None: no limit."""
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def run_cell(cell: Plan, patience: float = PATIENCE, ends: bool = False) -> Cell:
    """Run one property on one backend in one dtype.

    ends: if loading the backend or an example takes longer than `patience` seconds, end the process. The adapter of a
    program limits each reply itself, since the program would survive the end of this process.
    """
    limit = patience if ends and not cell.source.is_program else None
    try:
        with ending_after(limit):
            adapter = adapter_of(cell.source, cell.device, patience)
    except (ImportError, RuntimeError, ProtocolError) as error:  # it has been loaded once, in this or another process
        return blank(cell, status="error", reason=f"the backend could not be loaded a second time: {error}")
    return check(PROPERTIES[cell.property], adapter, cell, limit)


def check(prop: Property, adapter: Adapter, cell: Plan, patience: float | None = None) -> Cell:
    """Run one property on an adapter and return the result. patience: seconds for an example, see `ending_after`."""
    with ending_after(patience):
        bench = bench_for(adapter, cell)
    result = blank(cell)
    start = time.perf_counter()

    def examine(case: Case, bench: Bench = bench) -> None:
        if patience is not None:
            faulthandler.dump_traceback_later(patience, exit=True)
        prop.check(bench, case)

    try:
        for case in examples(cell, adapter.capabilities):
            result.examples += 1
            with quietly():
                examine(case)
            if cell.strength:
                result.rows.extend(case.extra.get("drawn") or classes_in(case))
        result.status = "pass"
    except NonconformingError as error:
        smallest = shrink(cell, adapter.capabilities, lambda case: examine(case, bench_for(adapter, cell)))
        result.status, result.failure = "fail", _failure(smallest or error, prop, cell)
        if smallest is None:
            result.failure.message = f"failed once, and not when run again: {error.message}"
    except ProtocolError as error:
        result.status, result.reason = "error", str(error)
    except Unsatisfiable as error:
        result.status, result.reason = "vacuous", str(error)
    except Exception as error:
        result.status = "error"
        result.reason = f"the kit failed: {type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    result.seconds = time.perf_counter() - start
    if result.status == "pass" and result.examples < cell.minimum:
        result.status, result.reason = "vacuous", f"{result.examples} examples ran, fewer than {cell.minimum}"
    _score(result, bench)
    return result


def _score(result: Cell, bench: Bench) -> None:
    scores = [bench.score[stage] for stage in STAGES]
    result.judged, result.not_judged = sum(s.judged for s in scores), sum(s.not_judged for s in scores)
    if result.judged:
        result.ratio = max(s.ratio for s in scores)
        result.stages = {
            stage: Stage(bench.score[stage].ratio, statistics.median(bench.medians[stage]))
            for stage in STAGES
            if bench.medians[stage]
        }
    elif result.not_judged and result.status == "pass":
        result.status, result.reason = "vacuous", "no coordinate was in the domain of the bound"
    result.sample = bench.sample


def bench_for(adapter: Adapter, cell: Plan) -> Bench:
    """The bench for a cell's property."""
    return Bench(adapter, cell.dtype, _peers(cell))


def blank(cell: Plan, **fields: Any) -> Cell:
    """The result of a cell that has not run, with these fields set."""
    return Cell(cell.property, cell.source.name, cell.dtype, cell.device, minimum=cell.minimum, **fields)


def _failure(error: NonconformingError, prop: Property, cell: Plan) -> Failure:
    failure = Failure(error.message, case_to_json(error.case), snippet=snippet(error.case, cell.source, prop.name))
    verdict = error.verdict
    if verdict is not None and verdict.parted_at is not None:
        score = verdict.scores[verdict.parted_at]
        failure.stage, failure.layer, failure.ratio = verdict.parted_at, verdict.parted_layer, score.ratio
        failure.coordinate = list(score.coordinate or ())
        failure.expected, failure.got = score.expected, score.got
    return failure


def _peers(cell: Plan) -> list[Adapter]:
    """The next path of the same framework that can run here.

    Each path is compared with the next one, in a ring, so that all are compared. A path that compiles is never the next
    one of a path that does not: every example might need another graph.
    """
    if cell.property != "paths-agree":
        return []
    paths = [source for source in registered().values() if source.framework == cell.source.framework]
    if cell.source not in paths:
        return []
    here = paths.index(cell.source)
    own = adapter_of(cell.source, cell.device).capabilities
    for source in paths[here + 1 :] + paths[:here]:
        try:
            peer = adapter_of(source, cell.device)
        except (ImportError, RuntimeError, ProtocolError):
            continue
        if own.compiles or not peer.capabilities.compiles:
            return [peer]
    return []
