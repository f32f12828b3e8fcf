"""Threads for code that releases the GIL: started once, idle in between, and none of them after a fork.

Not Numba's own (`prange`): its portable threading layer ends the process if two Python threads use it at
once, and its OpenMP layer if the process forks, as data loaders do; both are a second pool beside torch's.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

_lock = Lock()
_pool: ThreadPoolExecutor | None = None
_started = 0


def available() -> int:
    """As many as the environment grants: OMP_NUM_THREADS, or the CPUs that this process may use."""
    granted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if granted.isdigit() and int(granted) > 0:
        return int(granted)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def together(threads: int, work: Callable[..., None], *args: Any) -> None:
    """Call work(*args) on this thread and threads - 1 others, which share it between themselves.

    Work returns when all of it is done, whoever did it. So a helper that has not woken up by then is not waited
    for; nor is one that is on its way out, since handing the GIL over takes as long as many small layers.
    """
    helpers: list[Future[None]] = []
    try:
        if threads > 1:
            pool = _grown_to(threads - 1)
            helpers += [pool.submit(work, *args) for _ in range(threads - 1)]
        work(*args)
    finally:
        for helper in helpers:
            helper.cancel()


def _grown_to(helpers: int) -> ThreadPoolExecutor:
    global _pool, _started
    with _lock:
        if _pool is None or _started < helpers:
            _pool, _started = ThreadPoolExecutor(helpers, thread_name_prefix="setadam"), helpers
        return _pool


def _forget() -> None:
    global _pool, _lock
    _pool, _lock = None, Lock()  # the child has none of its parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
