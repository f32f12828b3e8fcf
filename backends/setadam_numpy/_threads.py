"""Threads for code that releases the GIL: started once, idle between calls, and started anew after a fork.

Helper threads are optional. The caller works together with those that exist, or alone if no thread can be started or
the interpreter is about to exit. An exception leaves `together` only when no helper is working any more.

Numba's own threads (`prange`) are not used: its portable threading layer ends the process if two Python threads use it
at the same time, and its OpenMP layer does so if the process forks, as data loaders do. Both are a second pool beside
torch's. `concurrent.futures` is not used either: it accepts no work after the main thread has ended, and a call that
fails may have been queued.
"""

import atexit
import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, RLock, Thread
from time import sleep
from typing import Any

_POLL = 1e-4  # seconds; polled only after an exception


def available() -> int:
    """The number of threads to use: OMP_NUM_THREADS, or the number of CPUs that this process may use."""
    granted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if granted.isdigit() and int(granted) > 0:
        return int(granted)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def together(threads: int, work: Callable[..., None], *args: Any) -> None:
    """Call work(*args) on this thread and on up to threads - 1 others, which share the work.

    work returns when all of it is done, by whichever thread. So this function does not wait for a helper that has not
    woken up by then, nor for one that is returning, since handing over the GIL takes as long as many small layers.

    If the caller is interrupted, the work is either finished or not begun: helpers that began it finish it first.
    """
    if threads < 2:
        work(*args)
        return
    job = _Job(work, args)
    try:
        _team.invite(threads - 1, job)
        work(*args)
    except BaseException:
        while job.open or job.inside:
            try:
                job.close()
            except BaseException:  # a second interrupt: the first one is already being raised
                continue
        raise
    job.open = False  # so that helpers which wake up late do not call work


class _Job:
    """Work that helpers may join until the job is closed."""

    def __init__(self, work: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.work, self.args = work, args
        self.lock, self.open, self.inside = Lock(), True, 0

    def join(self) -> None:
        with self.lock:
            if not self.open:
                return
            self.inside += 1
        try:
            self.work(*self.args)
        except BaseException:  # the caller makes the same call, and raises the exception
            return
        finally:
            with self.lock:
                self.inside -= 1

    def close(self) -> None:
        """Let no more helpers join, and wait for those that have."""
        with self.lock:
            self.open = False
        while self.inside:
            sleep(_POLL)


class _Team:
    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self.members: list[Thread] = []
        self.dismissed = False
        self.lock = RLock()  # a signal handler may call step too

    def invite(self, helpers: int, job: _Job) -> None:
        if len(self.members) < helpers:
            self.grow(helpers)
        for _ in range(min(helpers, len(self.members))):
            self.jobs.put(job)

    def grow(self, helpers: int) -> None:
        with self.lock:
            try:
                while len(self.members) < helpers and not self.dismissed:
                    # Daemons: other threads end when the main thread exits, and cannot be started after that.
                    member = Thread(target=_help, args=(self.jobs,), name="setadam", daemon=True)
                    member.start()
                    self.members.append(member)
            except (RuntimeError, MemoryError):  # no more threads available; the next step tries again
                return

    def dismiss(self) -> None:
        with self.lock:
            self.dismissed = True
            members, self.members = self.members, []
            self.jobs.put(None)
        for member in members:
            member.join()


def _help(jobs: "SimpleQueue[_Job | None]") -> None:
    while (job := jobs.get()) is not None:
        job.join()
        del job  # so that an idle thread keeps no arrays alive
    jobs.put(None)  # for the next helper


_team = _Team()


def _dismiss() -> None:
    """No helper may be in compiled code while the interpreter unloads it. Later steps use no helpers."""
    _team.dismiss()


def _forget() -> None:
    global _team
    _team = _Team()  # the child process has none of its parent's threads


atexit.register(_dismiss)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
