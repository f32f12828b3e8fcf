"""CuPy's stand-in, which runs setadam_cupy, including its kernels, on a machine without a GPU."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    """The module. Skips, with a reason, if no compiler supports what its host side needs."""
    if COMPILER is None:
        pytest.skip("no C++ compiler on this machine")
    command = [COMPILER, "-std=c++20", "-pthread", "-march=native", "-fsyntax-only", "-x", "c++", str(HERE / "host.h")]
    tried = subprocess.run(command, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"{COMPILER} has no C++20 with _Float16: {tried.stderr.splitlines()[0]}")
    spec = importlib.util.spec_from_file_location("setadam_cupy_stand_in", HERE / "stand_in.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded.module(COMPILER, tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def cupy(stand_in, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    stand_in.log.allocations, stand_in.log.launches = 0, []
    return stand_in
