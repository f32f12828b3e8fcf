"""Running properties on backends: cells of property × backend × dtype, each a Hypothesis run of its own.

A cell's examples follow from the seed, the shard and its own name, so that it gives the same result
alone, among others, and in any process.
"""

import hashlib
import multiprocessing
import time
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import FlakyFailure, Unsatisfiable

from setadam_conformance.backends import Source
from setadam_conformance.bench import Bench, NonconformingError
from setadam_conformance.case import Case, case_to_json
from setadam_conformance.judge import STAGES
from setadam_conformance.properties import PROPERTIES, Property
from setadam_conformance.protocol import Adapter, Capabilities, ProtocolError
from setadam_conformance.results import Cell, Failure
from setadam_conformance.snippet import snippet


@dataclass(frozen=True)
class Profile:
    """How much is tried: a property makes `examples` × its share, over the backend's cost."""

    name: str
    examples: int
    least: int  # examples of any property, however dear
    dear_dtypes: int = 4  # in how many dtypes, taking turns, what is dear is tried


PROFILES = {
    "quick": Profile("quick", 12, 2, dear_dtypes=1),
    "default": Profile("default", 40, 2, dear_dtypes=1),
    "deep": Profile("deep", 4000, 40),
}


@dataclass(frozen=True)
class Plan:
    """One cell to run. It travels to worker processes, so it names everything and holds nothing."""

    property: str
    source: Source
    dtype: str
    device: str
    examples: int
    minimum: int
    seed: int
    shard: tuple[int, int]


def plan(
    adapters: dict[Source, Adapter],
    *,
    profile: Profile,
    seed: int = 0,
    shard: tuple[int, int] = (1, 1),
    device: str = "cpu",
    dtypes: tuple[str, ...] = (),
    properties: tuple[str, ...] = (),
    max_examples: int | None = None,
) -> list[Plan]:
    """The cells that the backends' claims call for."""
    cells: list[Plan] = []
    for source, adapter in adapters.items():
        claims = adapter.capabilities
        asked = [dtype for dtype in claims.dtypes if not dtypes or dtype in dtypes]
        for turn, prop in enumerate(PROPERTIES.values()):
            if properties and prop.name not in properties:
                continue
            concerned = [dtype for dtype in asked if prop.concerns(adapter, dtype)]
            if _is_dear(prop, claims, profile):
                concerned = _take_turns(concerned, turn, profile.dear_dtypes)
            n = max(profile.least, round(profile.examples * prop.share / claims.cost))
            n = min(n, max_examples or n)
            minimum = max(1, min(profile.least, n) // shard[1])
            n = max(minimum, n // shard[1])
            cells.extend(Plan(prop.name, source, dtype, device, n, minimum, seed, shard) for dtype in concerned)
    return cells


def _is_dear(prop: Property, claims: Capabilities, profile: Profile) -> bool:
    """Backends that compile or are slow are; in the quick profile, so are large layers and whole trainings."""
    slow = claims.compiles or claims.cost >= 10
    if profile.name == "quick":
        return slow or prop.share <= 0.1
    return slow and prop.share < 1


def _take_turns(dtypes: list[str], turn: int, count: int) -> list[str]:
    """`count` of the dtypes, others from property to property, so that all get their share."""
    if count >= len(dtypes):
        return dtypes
    return [dtypes[(turn + i) % len(dtypes)] for i in range(count)]


def run(cells: list[Plan], jobs: int = 1) -> Iterator[Cell]:
    """Run the cells, in this process or several; yields each as it ends, in no fixed order."""
    if jobs <= 1 or len(cells) <= 1:
        yield from map(run_cell, cells)
        return
    # Spawned, not forked: JAX and OpenMP have threads. A framework stays in one process, where what it
    # has compiled serves all its cells.
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=context, initializer=_quiet) for _ in range(jobs)]
    try:
        futures = {
            pool.submit(run_cell, cell): cell
            for pool, lane in zip(pools, _lanes(cells, jobs), strict=True)
            for cell in lane
        }
        for future in as_completed(futures):
            try:
                yield future.result()
            except Exception as error:  # the worker died, and the backend is what it was running
                yield _cell(futures[future], status="error", reason=f"the worker process ended: {error}")
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _lanes(cells: list[Plan], jobs: int) -> list[list[Plan]]:
    """The cells shared out by framework, dearest first, each to the lane with least to do."""
    by_framework: dict[str, list[Plan]] = {}
    for cell in cells:
        by_framework.setdefault(cell.source.framework, []).append(cell)
    lanes: list[list[Plan]] = [[] for _ in range(jobs)]
    for group in sorted(by_framework.values(), key=len, reverse=True):
        min(lanes, key=len).extend(group)
    return lanes


_ADAPTERS: dict[tuple[Source, str], Adapter] = {}


def run_cell(cell: Plan) -> Cell:
    """One property on one backend in one dtype."""
    key = (cell.source, cell.device)
    if key not in _ADAPTERS:
        _ADAPTERS[key] = cell.source.make(cell.device)
    return check(PROPERTIES[cell.property], _ADAPTERS[key], cell)


def check(prop: Property, adapter: Adapter, cell: Plan) -> Cell:
    """Run one property against an adapter and say what came of it."""
    bench = bench_for(adapter, cell)
    result = _cell(cell)
    start = time.perf_counter()
    count = 0

    @hypothesis.seed(_seed(cell))
    @settings(
        max_examples=cell.examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
    )
    @given(prop.strategy(adapter.capabilities, cell.dtype))
    def examine(case: Case) -> None:
        nonlocal count
        count += 1
        prop.check(bench, case)

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            examine()
        result.status = "pass"
    except NonconformingError as error:
        result.status, result.failure = "fail", _failure(error, prop, cell)
    except FlakyFailure as error:
        cause = next((e for e in error.exceptions if isinstance(e, NonconformingError)), None)
        result.status = "fail"
        if cause is not None:
            result.failure = _failure(cause, prop, cell)
            result.failure.message = "not reproducible, though claimed deterministic: " + cause.message
        else:
            result.reason = f"not reproducible: {error}"
    except ProtocolError as error:
        result.status, result.reason = "error", str(error)
    except Unsatisfiable as error:
        result.status, result.reason = "vacuous", str(error)
    except Exception as error:
        result.status = "error"
        result.reason = f"the kit failed: {type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
    result.seconds = time.perf_counter() - start
    result.examples = count
    if result.status == "pass" and count < cell.minimum:
        result.status, result.reason = "vacuous", f"{count} examples ran, fewer than {cell.minimum}"
    scores = [bench.score[stage] for stage in STAGES]
    result.judged, result.not_judged = sum(s.judged for s in scores), sum(s.not_judged for s in scores)
    if result.judged:
        result.ratio, result.ulp = max(s.ratio for s in scores), bench.score["param"].ulp
        result.median = bench.median
    elif result.not_judged and result.status == "pass":
        result.status, result.reason = "vacuous", "no coordinate lay in the domain of the bound"
    result.sample = bench.sample
    return result


def bench_for(adapter: Adapter, cell: Plan) -> Bench:
    """The bench on which a cell's property is checked."""
    return Bench(adapter, cell.dtype, _peers(cell))


def _cell(cell: Plan, **fields: Any) -> Cell:
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
    """The other paths of the same framework that this process can make."""
    if cell.property != "paths-agree":
        return []
    from setadam_conformance.backends import known

    peers = []
    for source in known().values():
        if source.framework == cell.source.framework and source.name != cell.source.name:
            key = (source, cell.device)
            try:
                _ADAPTERS.setdefault(key, _ADAPTERS.get(key) or source.make(cell.device))
            except (ImportError, RuntimeError):
                continue
            peers.append(_ADAPTERS[key])
    return peers


def _seed(cell: Plan) -> int:
    text = f"{cell.seed}/{cell.shard[0]}/{cell.property}/{cell.dtype}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _quiet() -> None:
    """Two workers on two cores: each library keeps to one thread."""
    import os

    os.environ.setdefault("OMP_NUM_THREADS", "1")
