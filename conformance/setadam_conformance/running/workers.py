"""Worker processes. Each runs one cell after another.

A worker prefers the frameworks that it has imported, because later cells reuse what a framework has compiled. A worker
that has nothing left takes work that no other has begun, and finally helps the others. A backend whose graphs take
seconds is started first and gets one worker: a second worker would compile all graphs again. The result of a cell does
not depend on which worker runs it.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType, TracebackType
from typing import Any, Self

from setadam_conformance.protocol import Capabilities, ProtocolError
from setadam_conformance.running import runner
from setadam_conformance.running.backends import PATIENCE, Source
from setadam_conformance.running.plan import Plan
from setadam_conformance.running.results import Cell
from setadam_conformance.running.streams import make_tolerant

_WORTH_AN_IMPORT = 5.0  # a second worker imports a framework if this many seconds of work are left in it


Claims = Capabilities | str | ProtocolError  # what a backend claims, why it cannot run here, or how it broke


def claims_of(source: Source, device: str, patience: float = PATIENCE, ends: bool = False) -> Claims:
    """The backend's claims, or why it could not be loaded. patience and ends: see `runner.run_cell`."""
    try:
        with runner.ending_after(patience if ends and not source.is_program else None):
            return runner.adapter_of(source, device, patience).capabilities
    except (ImportError, RuntimeError) as error:
        return str(error)
    except ProtocolError as error:
        return error


class Workers:
    """`jobs` worker processes. With one job, everything runs in this process, and only programs are timed.

    patience: seconds to load a backend, for an example, and for a reply of a program. A worker or a program that takes
    longer is ended.
    """

    def __init__(self, jobs: int, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._lanes = [_Lane() for _ in range(jobs)] if jobs > 1 else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runner.close_adapters()
        for lane in self._lanes:
            lane.close(at_once=kind is not None)
        for lane in self._lanes:
            lane.join()

    def claims(self, sources: Iterable[Source], device: str) -> dict[Source, Claims]:
        """The claims of each backend, or why it could not be loaded."""
        if not self._lanes:
            return {source: _here(claims_of, source, device, self._patience) for source in sources}
        queues: dict[str, deque[tuple[Any, ...]]] = {}
        for source in sources:
            queues.setdefault(source.framework, deque()).append((source, device, self._patience, True))
        found: dict[Source, Claims] = {}
        for (source, *_), claims, error in self._share(queues, claims_of, split=False):
            if isinstance(error, BrokenProcessPool):
                how = f"it crashed, or took more than {self._patience:g} s"
                claims = ProtocolError(f"{source.name} ended the process that loaded it: {how}")
            elif error is not None:
                claims = ProtocolError(f"{source.name} cannot be loaded: {type(error).__name__}: {error}")
            found[source] = claims
        return {source: found[source] for source in sources}

    def run(self, cells: list[Plan]) -> Iterator[Cell]:
        """Run the cells, and yield each result when it is ready, in no fixed order."""
        if not self._lanes:
            for cell in cells:
                yield _here(runner.run_cell, cell, self._patience)
            return
        queues: dict[str, deque[tuple[Any, ...]]] = {}
        for cell in cells:
            queues.setdefault(cell.group, deque()).append((cell, self._patience, True))
        for (cell, *_), result, error in self._share(queues, runner.run_cell, split=True):
            if error is None:
                yield result
                continue
            if not isinstance(error, Exception):  # raised by the backend: Ctrl-C ends a worker without an exception
                yield runner.blank(cell, status="error", reason=f"the backend raised {type(error).__name__}")
                continue
            if not isinstance(error, BrokenProcessPool):
                yield runner.blank(cell, status="error", reason=f"the kit failed: {type(error).__name__}: {error}")
                continue
            how = f"it crashed, or took more than {self._patience:g} s for an example"
            yield runner.blank(cell, status="error", reason=f"the backend ended its process: {how}")
            queue = queues[cell.group]
            for left in [task for task in queue if task[0].source == cell.source]:
                queue.remove(left)
                reason = f"not run, because the backend ended its process in {cell.property} in {cell.dtype}"
                yield runner.blank(left[0], status="error", reason=reason)

    def each(self, work: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Source, Any]]:
        """work(*task, patience) for each task, of which the first entry is its source. patience: None without workers.

        A task that raises, or that ends its worker, is left out.
        """
        if not self._lanes:
            for task in tasks:
                with suppress(ImportError, RuntimeError, ProtocolError):
                    yield task[0], _here(work, *task, None)
            return
        queues: dict[str, deque[tuple[Any, ...]]] = {}
        for task in tasks:
            queues.setdefault(task[0].framework, deque()).append((*task, self._patience))
        for (source, *_), found, error in self._share(queues, work, split=False):
            if error is None:
                yield source, found

    def _share(
        self, queues: dict[str, deque[tuple[Any, ...]]], work: Any, split: bool
    ) -> Iterator[tuple[Any, Any, BaseException | None]]:
        """Each task with its result or error. split: two lanes may work on one framework at the same time."""
        pace: dict[str, list[float]] = {}
        running: dict[Future[Any], tuple[_Lane, str, tuple[Any, ...]]] = {}
        for lane in self._lanes:
            lane.current = ""
        while True:
            for lane in self._lanes:
                busy = {group for _, group, _ in running.values()}
                if lane.idle and (group := _choose(lane, queues, busy, pace, split)):
                    queue = queues[group]
                    task = queue.pop() if group in busy else queue.popleft()
                    running[lane.submit(group, work, *task)] = lane, group, task
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                lane, group, task = running.pop(future)
                lane.idle = True
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    lane.restart()
                result = None if error is not None else future.result()
                if isinstance(result, Cell):
                    pace.setdefault(group, []).append(result.seconds)
                yield task, result, error


def _choose(
    lane: "_Lane", queues: dict[str, deque[tuple[Any, ...]]], busy: set[str], pace: dict[str, list[float]], split: bool
) -> str | None:
    """The group of tasks that a lane continues with, or None.

    In order of preference: its own group, a free group that only one lane may work on, a free group, a group of a
    framework that the lane has imported, the group with most work left. Joining a busy group must be worth an import.
    """
    framework = {group: _source(queue[0]).framework for group, queue in queues.items() if queue}

    def left(group: str) -> float:
        known = pace.get(group) or [0.1]
        return len(queues[group]) * sum(known) / len(known)

    def worth(group: str) -> bool:
        return group not in busy or (
            split and group == framework[group] and (framework[group] in lane.loaded or left(group) > _WORTH_AN_IMPORT)
        )

    def rank(group: str) -> tuple[Any, ...]:
        is_own, is_free = group == lane.current and split, group not in busy
        return is_own, is_free and group != framework[group], is_free, framework[group] in lane.loaded, left(group)

    return max(filter(worth, framework), key=rank, default=None)


def _source(task: tuple[Any, ...]) -> Source:
    first = task[0]
    return first.source if isinstance(first, Plan) else first


@dataclass
class _Lane:
    """One worker process, and the frameworks that it has imported."""

    loaded: set[str] = field(default_factory=set)
    current: str = ""
    idle: bool = True

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=Spawning(), initializer=_prepare)
        self.loaded, self.current, self.idle = set(), "", True
        self._closing: Future[Any] | None = None

    def submit(self, group: str, work: Any, *task: Any) -> Future[Any]:
        self.loaded.add(_source(task).framework)
        self.current, self.idle = group, False
        return self._pool.submit(work, *task)

    def close(self, at_once: bool) -> None:
        """End the process: let an idle one close its adapters first, terminate a busy one."""
        if self.idle and self.loaded and not at_once:
            self._closing = self._pool.submit(_finish)
            self._pool.shutdown(wait=False)
        else:
            self._terminate()

    def join(self) -> None:
        """Wait until the process has ended."""
        if self._closing is not None:
            try:
                self._closing.result(10)
            except Exception:  # adapters that do not close in time end with their process
                self._terminate()
        self._pool.shutdown(cancel_futures=True)

    def _terminate(self) -> None:
        for process in list((self._pool._processes or {}).values()):
            process.terminate()


def _finish() -> None:
    """The last task of a worker: close the adapters, and skip the last garbage collection, which takes a second in a
    process that has imported frameworks.
    """
    runner.close_adapters()
    gc.freeze()


def _here(work: Callable[..., Any], *task: Any) -> Any:
    """Do a task in this process. As in a worker, what a backend prints goes to stderr."""
    with redirect_stdout(sys.stderr):
        return work(*task)


class _Process(SpawnProcess):
    """A process that does not import the main module again.

    Otherwise a script that starts a run without `if __name__ == "__main__":` would start it in every worker too. A
    script that is read from stdin could not start workers at all.
    """

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class Spawning(SpawnContext):
    """How the kit starts processes: spawned, not forked, because JAX and OpenMP have threads."""

    Process = _Process


def _end_with(parent: Any) -> None:
    """End this process when its parent has ended, even if that was killed: nothing else would tell it."""
    parent.join()
    runner.close_adapters()
    os._exit(1)


def _prepare() -> None:
    """Set up a new worker.

    One thread for each library, because there are as many workers as cores. Fewer garbage collections, because each
    walks over everything that frameworks have imported. What a backend prints goes to stderr. Ctrl-C ends the worker
    silently.
    """
    make_tolerant()
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    gc.set_threshold(20_000, 10, 20)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
