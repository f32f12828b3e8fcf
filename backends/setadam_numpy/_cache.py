"""One process at a time looks into Numba's cache on disk, and compiles what is not there.

For each function the cache has an index, and a file for each combination of dtypes. If two processes add a combination
at the same moment, both may take the same file, and who reads it then gets code for other dtypes. Processes that start
together, as `torchrun` starts them, also compile once now, instead of each for itself.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from time import monotonic, sleep
from typing import IO, Any

PATIENCE = 120  # seconds after which a process no longer waits for its turn: compiling takes ten


def take_turns(function: Any) -> Any:
    """A function of Numba's that compiles under the lock of its folder."""
    compiled = function.compile

    def compile_alone(signature: Any) -> Any:
        with alone(function.stats.cache_path):
            return compiled(signature)

    function.compile = compile_alone
    return function


@contextmanager
def alone(folder: str | None) -> Iterator[None]:
    """Hold the lock of a folder. Without it if there is no folder, if it cannot be locked, or after `PATIENCE`."""
    global _depth
    with _in_this_process:
        file = _locked(Path(folder)) if folder and not _depth else None
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
            if file is not None:
                file.close()  # which gives the lock back


def _locked(folder: Path) -> IO[str] | None:
    lock = _lock_of_the_system()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "setadam.lock").open("a")
    except OSError:
        return None
    end = monotonic() + PATIENCE
    while monotonic() < end:
        try:
            lock(file.fileno())
        except (BlockingIOError, PermissionError):  # another process has it
            sleep(0.02)
        except OSError:  # a file system without locks
            break
        else:
            return file
    file.close()
    return None


def _lock_of_the_system() -> Callable[[int], object]:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        return lambda descriptor: msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    return lambda descriptor: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _forget() -> None:
    """A fork's child has not got the thread that may hold the lock."""
    global _in_this_process, _depth
    _in_this_process, _depth = RLock(), 0


_in_this_process, _depth = RLock(), 0  # one function is compiled within another
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
