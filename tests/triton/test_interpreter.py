"""Runs test_in_interpreter.py: Triton's interpreter has to be chosen before anything imports Triton."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_the_kernels_under_tritons_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "test_in_interpreter.py")]
    done = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    assert "skipped" not in done.stdout
