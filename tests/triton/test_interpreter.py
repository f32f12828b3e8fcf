"""Runs the tests under Triton's interpreter, which has to be chosen before anything imports Triton."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Two launches in one is off by default.
FILES = [
    pytest.param(file, id=file.stem, marks=[pytest.mark.heavy] * ("one_launch" in file.stem))
    for file in sorted(HERE.glob("test_*in_interpreter.py"))
]


@pytest.mark.long
@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed; it has wheels for Linux alone")
@pytest.mark.parametrize("file", FILES)
def test_the_kernels_under_tritons_interpreter(file):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    assert "skipped" not in done.stdout
