"""The programs of docs/onnx.md in other languages compute what the specification computes under NumPy."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from snippets import blocks, run, run_python

from setadam_core import Hyperparameters, init, step

PAGE = "docs/onnx.md"
MODULES = Path(sys.prefix) / "node_modules"  # where `make test-clients` puts onnxruntime-node
LIBRARY = MODULES / "onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime.so.1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With step.onnx, as the page makes it."""
    pytest.importorskip("ndonnx")
    run_python(blocks(PAGE, "python")["ONNX"], tmp_path)
    return tmp_path


def check(printed: str) -> None:
    """In each step both compute an update, below 2e-3, to 20u, and round θ < 0.2 by at most θu/2. Later steps do not
    enlarge such a difference, since the gradient leads back.
    """
    theta = np.zeros((512, 128), np.float32)
    state = init(theta)
    for _ in range(100):
        theta, state = step(theta, theta - 1, state, Hyperparameters())
    first, t = printed.split()
    assert t.removesuffix("n") == "100"
    u = 2.0**-24
    printed_to = 5e-7  # C++'s streams print six digits
    assert abs(float(first) - theta[0, 0]) <= 100 * (2e-3 * 2 * 20 * u + 0.2 * u) + printed_to


def test_javascript(folder: Path) -> None:
    node = shutil.which("node")
    if node is None or not (MODULES / "onnxruntime-node").exists():
        pytest.skip("needs node, and onnxruntime-node in this environment")
    (folder / "node_modules").symlink_to(MODULES)
    (folder / "step.mjs").write_text(blocks(PAGE, "javascript")["JavaScript"], encoding="utf-8")
    check(run(node, "step.mjs", folder=folder))


def test_cpp(folder: Path) -> None:
    compiler, headers = shutil.which("g++"), os.environ.get("ONNXRUNTIME_INCLUDE")
    if compiler is None or headers is None or not LIBRARY.exists():
        pytest.skip("needs g++, onnxruntime-node's library, and its headers in ONNXRUNTIME_INCLUDE")
    (folder / "step.cpp").write_text(blocks(PAGE, "cpp")["C++"], encoding="utf-8")
    linked = [str(LIBRARY), f"-Wl,-rpath,{LIBRARY.parent}"]
    run(compiler, "-std=c++20", f"-I{headers}", "step.cpp", *linked, "-o", "step", folder=folder)
    check(run(folder / "step", folder=folder))
