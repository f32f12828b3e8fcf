"""Which threads take a step: torch's own where they are OpenMP's, else a team of the kernel's.

torch's threads have just computed the gradients. They poll for more work, so they begin a step within a microsecond,
and a second team beside them would have to share their cores: docs/performance.md says what that costs.
"""

import ctypes
import os
import sys
import threading
from functools import lru_cache

import torch

from setadam_numpy.kernel import Threads


def team() -> Threads:
    """Those that torch would take for an operation in this thread of Python."""
    count = torch.get_num_threads()
    return Threads(count, _parallel() if count > 1 and not _is_child and _can_start(count) else 0)


@lru_cache
def _parallel() -> int:
    """The address of GOMP_parallel in the library that torch's threads belong to; 0 if they are not OpenMP's.

    GCC's and LLVM's libraries have the function under Linux. Looked up from torch's library, it is the one that torch
    is bound to, where a process has several.
    """
    if not sys.platform.startswith("linux"):
        return 0
    try:
        library = ctypes.CDLL(torch._C.__file__, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0


_granted = threading.local()  # each thread of Python has OpenMP threads of its own


def _can_start(threads: int) -> bool:
    """Whether the system lets this thread have so many. OpenMP ends the process where it does not, so ask before it.

    Asked once for each number: OpenMP keeps what it has started.
    """
    if threads > getattr(_granted, "most", 1):
        done, started = threading.Event(), []
        try:
            for _ in range(threads - 1):
                thread = threading.Thread(target=done.wait, daemon=True)
                thread.start()
                started.append(thread)
        except (RuntimeError, MemoryError):
            return False
        finally:
            done.set()
            for thread in started:
                thread.join()
        _granted.most = threads
    return True


def _forget() -> None:
    """A fork's child has none of OpenMP's threads, and OpenMP would wait for them for ever."""
    global _is_child
    _is_child = True


_is_child = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
