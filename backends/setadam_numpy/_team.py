"""A team of helper threads that wait inside compiled code, without the GIL, and share the steps of the kernel.

A helper is a thread of Python that calls `setadam_numpy._compiled.serve` once and stays there. After a step it polls
for some tens of microseconds; then it sleeps on a condition of the C library and uses no CPU. A step reaches a polling
helper in about a microsecond, and a sleeping one in some tens. No helper needs the GIL for it.

Helpers are optional. A step is shared with those that exist and are free. One thread does it alone if no thread can be
started, if another thread is handing out a step, or if the interpreter is about to exit. A fork's child makes a team of
its own.
Where the C library lacks what they wait with (Windows), `setadam_numpy._threads.together` takes their place.
"""

import atexit
import os
from functools import lru_cache
from threading import RLock, Thread
from typing import Any

import numpy as np

# Coordinates of a step from which on waking a helper pays: one core needs 70 µs for them, and a helper wakes in less.
WORTH_WAKING = 1 << 17


@lru_cache
def exists() -> bool:
    """Whether threads can wait in compiled code on this platform."""
    from setadam_numpy import _compiled

    return bool(_compiled.has_helpers())


def run(threads: int, coordinates: int, stored: Any, *arrays: Any) -> None:
    """`_compiled.run` by this thread and up to threads - 1 helpers; coordinates: how many the step has.

    A compiled call does all of it, so that a KeyboardInterrupt comes before or after the step.
    """
    from setadam_numpy import _compiled

    entered = _entry(stored.dtype.name).address
    helpers = _team.ready(threads - 1)
    if helpers == 0:
        _compiled.run(stored, *arrays)
    else:
        _compiled.run_together(_team.board, entered, helpers, coordinates >= WORTH_WAKING, stored, *arrays)


def run_by_openmp(parallel: int, threads: int, stored: Any, *arrays: Any) -> None:
    """`_compiled.run` by this thread and OpenMP's; parallel: the address of GOMP_parallel.

    A framework that has just computed gradients by OpenMP has left its threads polling for more work, for milliseconds.
    A team beside them would be more threads than there are cores.
    """
    from setadam_numpy import _compiled

    _compiled.run_by_openmp(parallel, _entry(stored.dtype.name).address, threads, *arrays)


@lru_cache
def _entry(dtype: str) -> Any:
    from setadam_numpy import _compiled

    return _compiled.entry(np.dtype(dtype).type(0))


class _Team:
    def __init__(self) -> None:
        self.members: list[Thread] = []
        self.dismissed = False
        self.lock = RLock()  # a signal handler may step, too
        self.board: Any = None  # the memory that helpers share, see `_compiled`

    def ready(self, helpers: int) -> int:
        """Start helpers until there are so many, if that can be done; returns how many may join a step."""
        if len(self.members) < helpers:
            self.grow(helpers)
        return min(helpers, len(self.members))

    def grow(self, helpers: int) -> None:
        from setadam_numpy import _compiled

        with self.lock:  # not on the way of every step: an interrupt at a bad moment could leave it locked
            if self.board is None:
                _compile_serve()
                board = np.zeros(_compiled.BOARD, np.int64)
                _compiled.prepare(board)
                self.board = board
            while len(self.members) < helpers and not self.dismissed:
                # Daemons: other threads cannot be started after the main thread has ended, which waits for them.
                member = Thread(target=_help, args=(self.board, len(self.members)), name="setadam", daemon=True)
                self.members.append(member)  # first: `dismiss` must know of every thread that runs
                try:
                    member.start()
                except BaseException as error:
                    if member.ident is None:
                        self.members.remove(member)
                    if not isinstance(error, RuntimeError | MemoryError):  # no more threads: the next step tries again
                        raise
                    return

    def dismiss(self) -> None:
        with self.lock:
            self.dismissed = True
            members, self.members = self.members, []
            if members:
                from setadam_numpy import _compiled

                _compiled.dismiss(self.board)
        for member in members:
            if member.ident is not None:
                member.join()


def _help(board: Any, index: int) -> None:
    from setadam_numpy import _compiled

    _compiled.serve(board, index)


@lru_cache
def _compile_serve() -> None:
    """By this thread, for a board whose helpers are dismissed: an interrupt would wait for a helper that compiles."""
    from setadam_numpy import _compiled

    board = np.zeros(_compiled.BOARD, np.int64)
    board[_compiled.DISMISSED] = 1
    _compiled.serve(board, 0)


_team = _Team()


def _dismiss() -> None:
    """End helpers before the interpreter frees the compiled code that they are in. Later steps run without helpers."""
    _team.dismiss()


def _forget() -> None:
    global _team
    _team = _Team()  # the child has none of its parent's threads


atexit.register(_dismiss)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
