"""Blocks of a kernel under Triton's interpreter as a device may run them: some at a time, in turns.

Each block is a thread. One of them runs at a time, until its next atomic operation; then any block that has begun may
be next. If the device is full, a block begins when another has ended, and never before.
"""

import inspect
import random
import threading

from triton.runtime import interpreter


class StuckError(Exception):
    """Blocks wait for what none of those that have begun will do."""


class Block(threading.Thread):
    def __init__(self, device, index, work):
        super().__init__(daemon=True)
        self.device, self.index, self.work = device, index, work
        self.turn, self.ended, self.error = threading.Semaphore(0), False, None

    def run(self):
        self.turn.acquire()
        try:
            self.work()
        except BaseException as error:  # raised where the kernel was launched
            self.error = error
        self.ended = True
        self.device.turn.release()

    def pause(self):
        self.device.turn.release()
        self.turn.acquire()


class Device:
    """It holds up to `resident` blocks, and begins them in a random order."""

    def __init__(self, resident, seed):
        self.resident, self.random, self.turn = resident, random.Random(seed), threading.Semaphore(0)

    def run(self, works):
        to_begin = [Block(self, i, work) for i, work in enumerate(works)]
        self.random.shuffle(to_begin)
        begun, turns = [], 500 * len(to_begin) * self.resident
        while to_begin or begun:
            while to_begin and len(begun) < self.resident:
                begun.append(to_begin.pop())
                begun[-1].start()
            block = self.random.choice(begun)
            interpreter.interpreter_builder.set_grid_idx(block.index, 0, 0)
            block.turn.release()
            self.turn.acquire()
            if block.error is not None:
                raise block.error
            if block.ended:
                begun.remove(block)
            turns -= 1
            if turns == 0:
                raise StuckError(f"{len(begun)} blocks wait, {len(to_begin)} have not begun")


def install(monkeypatch, device):
    """All kernels of this process run on the device."""

    def launch(self, *args, **kwargs):
        kwargs = {name: x for name, x in kwargs.items() if name in inspect.signature(self.fn).parameters}
        bound = inspect.getcallargs(self.fn, *args, **kwargs)
        bound = {name: x if name in self.constexprs else interpreter._implicit_cvt(x) for name, x in bound.items()}
        scope = interpreter._patch_lang(self.fn)
        try:
            interpreter.interpreter_builder.set_grid_dim(self.grid[0], 1, 1)
            device.run([lambda: self.fn(**bound)] * self.grid[0])
        finally:
            scope.restore()

    def atomic(self, *args):
        me = threading.current_thread()
        if isinstance(me, Block):
            me.pause()
        return original(self, *args)

    original = interpreter.InterpreterBuilder.create_atomic_rmw
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_atomic_rmw", atomic)
