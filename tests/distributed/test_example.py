"""The script for users: two processes under torchrun, and on with three."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
EXAMPLE = Path(__file__).parents[2] / "examples" / "torch_fsdp2.py"


def train(processes, *arguments):
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run([*launcher, str(EXAMPLE), *arguments], env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return [float(loss) for loss in re.findall(r"loss (\S+)", done.stdout)]


@pytest.mark.heavy  # checks_resume in make test resumes as it does
def test_it_trains_and_goes_on_with_another_number_of_processes(tmp_path):
    losses = train(2, "--steps", "60", "--folder", str(tmp_path))
    assert losses[-1] < losses[0] - 0.1  # from the loss of a guess, log 11, down
    (resumed,) = train(3, "--steps", "1", "--folder", str(tmp_path), "--resume")
    assert resumed < losses[0] - 0.1
