"""Whose threads take a step of tensors on the CPU: torch's own, where they are OpenMP's and can be had."""

import os
import subprocess
import sys

import pytest
import torch

from setadam_torch.paths.choice import why_no_kernel
from setadam_torch.paths.cpu_kernel import team

if (reason := why_no_kernel("cpu", torch.float32)) is not None:
    pytest.skip(reason, allow_module_level=True)
if not team._parallel():
    pytest.skip("torch's threads are not OpenMP's here", allow_module_level=True)

# In a process of its own: step(threads, optimizer) makes a step of layers of all kinds, and returns their bits.
START = """
import os, signal, sys, threading
import torch
from setadam_numpy import _compiled, _team
from setadam_torch import SETAdam
from setadam_torch.paths.cpu_kernel import team

SIZES = 400_000, 7, 70_000, 33_000, 1 << 17, 2_000_000

def made():
    torch.set_num_threads(1)
    params = [torch.linspace(-1, 1, n).requires_grad_() for n in SIZES]
    for p in params:
        p.grad = p.detach().roll(1)
    return SETAdam(params, fused=True)

def step(threads, optimizer=None):
    optimizer = optimizer or made()
    torch.set_num_threads(threads)
    optimizer.step()
    torch.set_num_threads(1)
    return b"".join(p.detach().numpy().tobytes() for p in optimizer.param_groups[0]["params"])

calls, usual = [], _team.run_by_openmp
def counted(parallel, threads, *arrays):
    calls.append(threads)
    usual(parallel, threads, *arrays)
_team.run_by_openmp = counted
expected = step(1)
assert not calls
"""


def check(script):
    """Run a script after START, in a process that must end well."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START + script], check=False, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_bits_are_those_of_one_thread_with_any_number_of_torchs():
    check("""
for threads in 2, 5, 3, 2, 16:
    assert step(threads) == expected
    assert calls.pop() == threads and not calls
assert not _team._team.members  # no threads beside torch's
""")


def test_each_thread_of_python_has_its_own():
    check("""
results, barrier = [], threading.Barrier(3)
def train():
    optimizer = made()
    barrier.wait()
    results.append(step(3, optimizer))
trainers = [threading.Thread(target=train) for _ in range(3)]
for trainer in trainers: trainer.start()
for trainer in trainers: trainer.join()
assert results == [expected] * 3 and len(calls) == 3
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forks_child_has_a_team_of_its_own():
    """OpenMP would wait for the threads of the parent, which the child has not: so would torch, to make a state."""
    check("""
one, two = made(), made()
assert step(2, one) == step(2, two) == expected and calls == [2, 2]
calls.clear()
second = step(1, one)
child = os.fork()
if child == 0:
    signal.alarm(30)
    right = step(2, two) == second
    os._exit(0 if right and not calls and _team._team.members else 3)
assert os.waitpid(child, 0)[1] == 0
""")


def test_where_the_system_has_no_more_threads_a_step_does_with_fewer():
    """OpenMP would end the process."""
    check("""
def refuse(self):
    raise RuntimeError("can't start new thread")
start, threading.Thread.start = threading.Thread.start, refuse
assert step(4) == expected and not calls
threading.Thread.start = start
assert step(4) == expected and calls == [4]
""")


def test_small_steps_wake_nobody():
    check("""
p = torch.ones(1 << 14, requires_grad=True)
p.grad = p.detach().clone()
torch.set_num_threads(2)
SETAdam([p], fused=True).step()
assert not calls and not _team._team.members
""")
