"""Threads for code that releases the GIL: started once, idle in between, and none of them after a fork.

Helpers are a help only. The caller does the work with as many as there are, down to none: where no thread can be
started, or the interpreter is about to exit. An exception leaves `together` only when no helper is at work any more.

Not Numba's own (`prange`): its portable threading layer ends the process if two Python threads use it at
once, and its OpenMP layer if the process forks, as data loaders do; both are a second pool beside torch's.
Not `concurrent.futures`: it takes no work once the main thread has ended, and a call that fails may have been queued.
"""

import atexit
import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, RLock, Thread
from time import sleep
from typing import Any

_POLL = 1e-4  # seconds; after an exception, and then only


def available() -> int:
    """As many as the environment grants: OMP_NUM_THREADS, or the CPUs that this process may use."""
    granted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if granted.isdigit() and int(granted) > 0:
        return int(granted)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def together(threads: int, work: Callable[..., None], *args: Any) -> None:
    """Call work(*args) on this thread and up to threads - 1 others, which share it between themselves.

    Work returns when all of it is done, whoever did it. So a helper that has not woken up by then is not waited
    for; nor is one that is on its way out, since handing the GIL over takes as long as many small layers.

    If the caller is interrupted, the work is done or has not been begun: helpers that began it finish it first.
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
            except BaseException:  # a second interrupt: the first one is on its way to the caller already
                continue
        raise
    job.open = False  # spares helpers that wake up late the call


class _Job:
    """Work that helpers may join until it is closed."""

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
        except BaseException:  # the caller makes the same call, and raises it
            return
        finally:
            with self.lock:
                self.inside -= 1

    def close(self) -> None:
        """Let no one in any more, and wait for those inside."""
        with self.lock:
            self.open = False
        while self.inside:
            sleep(_POLL)


class _Team:
    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self.members: list[Thread] = []
        self.dismissed = False
        self.lock = RLock()  # a signal handler may step, too

    def invite(self, helpers: int, job: _Job) -> None:
        if len(self.members) < helpers:
            self.grow(helpers)
        for _ in range(min(helpers, len(self.members))):
            self.jobs.put(job)

    def grow(self, helpers: int) -> None:
        with self.lock:
            try:
                while len(self.members) < helpers and not self.dismissed:
                    # Daemons, since other threads end at the exit of the main thread, and may not begin after it.
                    member = Thread(target=_help, args=(self.jobs,), name="setadam", daemon=True)
                    member.start()
                    self.members.append(member)
            except (RuntimeError, MemoryError):  # no more threads to be had; the next step asks again
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
        del job  # an idle thread keeps no arrays alive
    jobs.put(None)  # for the next


_team = _Team()


def _dismiss() -> None:
    """No helper may be in compiled code while the interpreter takes it away. Later steps do without."""
    _team.dismiss()


def _forget() -> None:
    global _team
    _team = _Team()  # the child has none of its parent's threads


atexit.register(_dismiss)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
