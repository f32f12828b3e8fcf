"""Numba's cache on disk is looked into by one process at a time."""

import subprocess
import sys
import time

import numpy as np
import pytest

from setadam_numpy import _cache, kernel

if kernel.why_not() is not None:
    pytest.skip(str(kernel.why_not()), allow_module_level=True)

MODULE = """
import numpy as np
from setadam_numpy._compiled import cached

@cached(nogil=True)
def size(x):
    return 10 * x.itemsize + x.size

if __name__ == "__main__":
    from twice import size
    import sys
    print("begun", flush=True)
    print(size(np.zeros(3, sys.argv[1])), flush=True)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "twice.py").write_text(MODULE, encoding="utf-8")
    return tmp_path


def begin(folder, dtype):
    """A process that compiles a function for a dtype, and prints what it returns."""
    command = [sys.executable, str(folder / "twice.py"), dtype]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    return process


def test_a_process_waits_for_its_turn(folder, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    with _cache.alone(str(folder / "__pycache__")):
        process = begin(folder, "i4")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
    assert process.communicate(timeout=60)[0] == "43\n"


def test_several_processes_at_once(folder, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    processes = {dtype: begin(folder, dtype) for dtype in ("i2", "i4", "i8")}
    for dtype, process in processes.items():
        assert process.communicate(timeout=60)[0] == f"{10 * np.dtype(dtype).itemsize + 3}\n"
    assert len(list((folder / "__pycache__").glob("*.nbc"))) == 3  # a file each


def test_one_call_within_another(tmp_path):
    with _cache.alone(str(tmp_path)), _cache.alone(str(tmp_path)):
        pass
    with _cache.alone(str(tmp_path)):
        pass


def test_a_folder_that_cannot_be_locked(tmp_path):
    """The function is compiled without a lock."""
    (tmp_path / "file").write_text("")
    with _cache.alone(str(tmp_path / "file" / "folder")), _cache.alone(None):
        pass


def test_patience_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "PATIENCE", 0.1)
    program = (
        "import sys; from setadam_numpy import _cache\n"
        "with _cache.alone(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        start = time.monotonic()
        with _cache.alone(str(tmp_path)):
            assert time.monotonic() - start >= 0.1
        holder.stdin.close()
