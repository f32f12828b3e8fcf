"""Helper threads are optional: a step uses as many threads as there are, and nothing is written after it has ended.

These tests see steps from outside, whichever way threads are had; but one, which sees an error that the kernel has not.
"""

import _thread
import importlib.util
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from setadam_core import Hyperparameters
from setadam_numpy import _threads, kernel

if kernel.why_not() is not None:
    pytest.skip(str(kernel.why_not()), allow_module_level=True)

SIZE = 400_000  # coordinates: a layer of that many is shared between threads
HP = Hyperparameters(lr=0.5)


def columns(sizes=(SIZE,)):
    """θ, g, m, v of layers."""
    rng = np.random.default_rng(1)
    params, grads, ms = ([rng.standard_normal(n).astype(np.float32) for n in sizes] for _ in range(3))
    return params, grads, ms, [m * m for m in ms]


def bits(arrays):
    return b"".join(x.tobytes() for column in arrays for x in column)


# For child processes: step(threads) makes a step of a layer from the same numbers each time, and returns its θ.

BY_KERNEL = f"""
from setadam_core import Hyperparameters
from setadam_numpy import kernel
def step(threads):
    x = [[np.linspace(0, 1, {SIZE}, dtype=np.float32)] for _ in range(4)]
    kernel.step_layers(*x, 1, Hyperparameters(), threads=threads)
    return x[0][0].tobytes()
"""
BY_NUMPY = f"""
from setadam_numpy import SETAdam
def step(threads):
    os.environ["OMP_NUM_THREADS"] = str(threads)
    p = np.linspace(0, 1, {SIZE}, dtype=np.float32)
    SETAdam([p], fused=True).step([p.copy()])
    return p.tobytes()
"""
BY_TORCH = f"""
import torch
from setadam_torch import SETAdam
def step(threads):
    torch.set_num_threads(threads)
    p = torch.nn.Parameter(torch.linspace(0, 1, {SIZE}))
    p.grad = p.detach().clone()
    SETAdam([p], fused=True).step()
    return p.detach().numpy().tobytes()
"""
START = """
import atexit, os, signal, sys, threading, time
import numpy as np
"""
EXPECT = """
expected = step(1)
def check(threads=4):
    assert step(threads) == expected
    print("ok", flush=True)
"""
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
every_optimizer = pytest.mark.parametrize(
    "by", [pytest.param(BY_NUMPY, id="numpy"), pytest.param(BY_TORCH, id="torch", marks=needs_torch)]
)


def oks(*parts):
    """The number of checks that pass in a child process, which runs the parts in order and exits normally."""
    script = "".join((START, *parts))
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], check=False, timeout=120, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    assert set(child.stdout.split()) <= {"ok"}, child.stdout
    return child.stdout.count("ok")


def test_bits_do_not_depend_on_threads_that_come_and_go():
    sizes = (SIZE, 7, 50_000, 140_001)
    results = []
    for threads in (1, 4, 2, 7, 1, 3, None):
        x = columns(sizes)
        kernel.step_layers(*x, 7, HP, threads=threads)
        results.append(bits(x))
    assert len(set(results)) == 1


def test_threads_of_python_that_step_at_once():
    """Each with another number of helpers, and many steps, so that helpers come late to some."""
    alone = columns()
    for t in range(1, 21):
        kernel.step_layers(*alone, t, HP, threads=1)
    barrier, results = threading.Barrier(3), {}

    def train(threads):
        x = columns()
        barrier.wait()
        for t in range(1, 21):
            kernel.step_layers(*x, t, HP, threads=threads)
        results[threads] = bits(x)

    trainers = [threading.Thread(target=train, args=(threads,)) for threads in (2, 3, 4)]
    for trainer in trainers:
        trainer.start()
    for trainer in trainers:
        trainer.join()
    assert results == dict.fromkeys((2, 3, 4), bits(alone))


OUTLIVES_MAIN = """
def train():
    threading.main_thread().join()
    for _ in range(3):
        time.sleep(0.05)  # the interpreter, too, has begun to end
        check()
threading.Thread(target=train).start()
"""


@pytest.mark.parametrize("before", ["", "check()"], ids=["the first step", "a later step"])
def test_steps_at_the_end_of_a_process(before):
    """In a thread that outlives the main thread, then in handlers from after and from before the import."""
    early, late = "atexit.register(lambda: check())", "atexit.register(check)\n"
    assert oks(early, BY_KERNEL, EXPECT, late, before, OUTLIVES_MAIN) == 5 + bool(before)


LIMIT = """
start, begun, granted = threading.Thread.start, [], 0
def limited(self):
    if len(begun) >= granted:
        raise RuntimeError("can't start new thread")
    begun.append(self)
    start(self)
threading.Thread.start = limited
"""


def test_no_further_thread_can_be_started():
    """None, some, and all of the requested threads can be started; repeatedly."""
    assert oks(BY_KERNEL, EXPECT, LIMIT, "for granted in (0, 0, 1, 2, 2, 9):\n    check()\n") == 6


def test_the_system_refuses_a_thread():
    """Out of memory: its stack would be as large as the address space."""
    refuse = """
try:
    threading.stack_size(1 << 47)
    threading.Thread(target=int).start()
except (RuntimeError, ValueError, OverflowError) as error:
    refused = isinstance(error, RuntimeError)
else:
    refused = False
if refused:
    check()
    threading.stack_size(0)
    check()
"""
    if oks(BY_KERNEL, EXPECT, refuse) == 0:
        pytest.skip("this system starts a thread with any size of its stack")


@every_optimizer
def test_optimizers_of_all_kinds(by):
    """With one helper of three requested ones; then from a thread that outlives the main one; then at exit."""
    parts = (by, LIMIT, "granted = 1", EXPECT, "check()\nbegun.clear()\ngranted = 4\n", "atexit.register(check)\n")
    assert oks(*parts, OUTLIVES_MAIN) == 5


class Interrupt:
    """Within it, the n-th line that this thread executes raises KeyboardInterrupt, as Ctrl-C may anywhere."""

    def __init__(self, n):
        self.left = n

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def trace(self, frame, event, _):
        if frame.f_code is Interrupt.__exit__.__code__:
            return None
        if event == "line":
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return self.trace


def test_an_interrupted_step_is_done_or_not_begun():
    """For an interrupt at any line. If a thread were still writing, a part of the layers would be new."""
    x = columns((1 << 20,))
    old = [[array.copy() for array in column] for column in x]
    layers = kernel.Layers.of_arrays(*x)
    kernel.step(layers, 7, HP, threads=4)
    before, after = bits(old), bits(x)
    n, seen = 0, set()
    while True:
        for column, was in zip(x, old, strict=True):
            column[0][:] = was[0]
        try:
            with Interrupt(n):
                kernel.step(layers, 7, HP, threads=4)
        except KeyboardInterrupt:
            seen.add(bits(x))
            assert seen <= {before, after}, f"interrupted at line {n}, a part is new"
        else:
            break
        n += 1
    assert n > 10
    assert bits(x) == after
    assert before in seen


def test_an_interrupt_while_a_helper_is_started():
    """The helper runs, and the call that started it raises: at the first, the second and the third."""
    script = """
start, begun, nth = threading.Thread.start, [], 0
def interrupted(self):
    start(self)
    begun.append(self)
    if len(begun) == nth:
        raise KeyboardInterrupt
threading.Thread.start = interrupted
for nth, threads in ((1, 4), (2, 8), (3, 16)):
    begun.clear()
    x = [[np.linspace(0, 1, 4_000_000, dtype=np.float32)] for _ in range(4)]
    before = x[0][0].copy()
    try:
        kernel.step_layers(*x, 1, Hyperparameters(), threads=threads)
    except KeyboardInterrupt:
        seen = x[0][0].copy()
    else:
        sys.exit("nothing was interrupted")
    time.sleep(0.05)
    assert np.array_equal(x[0][0], seen)
    kernel.step_layers(*(y := [[a.copy()] for a in [before] * 4]), 1, Hyperparameters(), threads=1)
    assert np.array_equal(seen, before) or np.array_equal(seen, y[0][0])
    check()
"""
    assert oks(BY_KERNEL, EXPECT, script) == 3


@pytest.mark.parametrize("interrupts", [0, 1, 3])
def test_an_error_waits_for_whoever_is_at_work(interrupts):
    """Below the kernel, whose loops raise nothing; and no further interrupt cuts the waiting short."""
    caller, begun, done = threading.current_thread(), threading.Event(), []

    def work():
        if threading.current_thread() is caller:
            assert begun.wait(60)
            raise ValueError("from the work")
        begun.set()
        for _ in range(interrupts):
            time.sleep(0.01)
            _thread.interrupt_main()
        time.sleep(0.02)
        done.append(True)

    with pytest.raises((ValueError, KeyboardInterrupt)):
        _threads.together(2, work)
    assert done == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_steps():
    script = """
stop = threading.Event()
def train():
    while not stop.is_set():
        assert step(4) == expected
    print("ok")
trainer = threading.Thread(target=train)
trainer.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if step(4) == expected else 3)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
trainer.join()
"""
    assert oks(BY_KERNEL, EXPECT, "step(4)", script) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's accounts of threads")
def test_idle_helpers_use_no_cpu():
    """After a step they poll for a moment, then sleep."""
    script = """
def ticks(t):
    return sum(map(int, open(f"/proc/self/task/{t}/stat").read().split()[13:15]))
def spent():
    return {t: ticks(t) for t in os.listdir("/proc/self/task")}
check()
time.sleep(0.2)
before = spent()
assert len(before) >= 4
time.sleep(0.5)
main = str(os.getpid())
assert all(now <= before.get(t, now) + 1 for t, now in spent().items() if t != main)
check()
"""
    assert oks(BY_KERNEL, EXPECT, script) == 2


def test_without_the_c_librarys_conditions_the_pool_of_python_takes_over():
    """As on Windows."""
    script = """
from setadam_numpy import _compiled, _team, _threads
_compiled.has_helpers = lambda: False
used, usual = [], _threads.together
_threads.together = lambda *args: used.append(1) or usual(*args)
check()
assert used and not _team._team.members
"""
    assert oks(BY_KERNEL, EXPECT.replace("expected = step(1)", "expected = step(1)\n"), script) == 1
