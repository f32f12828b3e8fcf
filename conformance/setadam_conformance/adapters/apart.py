"""An adapter in a process of its own, for a framework that a process can have in one form only.

Keras chooses its backend when it is imported. So each is judged in a process of its own, and the kit may still compare
two of them, or have loaded their frameworks itself. The process ends with the kit's.
"""

import importlib
import importlib.util
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from setadam_conformance.protocol import Capabilities, LayerState, Native, NumPyArray, ProtocolError


class Apart:
    """An adapter whose arrays are NumPy's, around the adapter `target` in another process."""

    name: str
    framework: str
    target: str  # "module:Class"
    needs: tuple[str, ...] = ()  # modules; ImportError for the first that is not installed
    environment: tuple[tuple[str, str], ...] = ()  # variables that are set there
    capabilities: Capabilities

    def __init__(self, device: str = "cpu") -> None:
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                raise ImportError(f"{self.name} needs {module}, which is not installed")
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **dict(self.environment)},
        )
        try:
            self.capabilities = self._ask("make", self.target, device)
        except BaseException:
            self.close()
            raise

    def from_numpy(self, x: NumPyArray) -> Native:
        return x.copy(order="K")

    def to_numpy(self, x: Native) -> NumPyArray:
        array: NumPyArray = x
        return array

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        params, states = self._ask("step", list(params), list(grads), list(states), dict(hp), list(layer_axes))
        return list(params), list(states)

    def reload(
        self, how: str, params: Sequence[Native], states: Sequence[LayerState], hp: Mapping[str, Any]
    ) -> list[LayerState]:
        after: list[LayerState] = self._ask("reload", how, list(params), list(states), dict(hp))
        return after

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def _ask(self, method: str, *arguments: Any) -> Any:
        """What the method returns there. Raises what it raises there."""
        try:
            pickle.dump((method, arguments), self._process.stdin)  # type: ignore[arg-type]
            self._process.stdin.flush()  # type: ignore[union-attr]
            raised, answer = pickle.load(self._process.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise ProtocolError(f"the process of {self.name} has ended") from error
        if raised:
            raise answer
        return answer


class _There:
    """The adapter in its own process, by the requests that it gets."""

    def make(self, target: str, device: str) -> Capabilities:
        module, _, attribute = target.partition(":")
        self._adapter: Any = getattr(importlib.import_module(module), attribute)(device)
        claims: Capabilities = self._adapter.capabilities
        return claims

    def step(
        self, params: list[NumPyArray], grads: list[NumPyArray], states: list[LayerState], hp: Any, layer_axes: Any
    ) -> tuple[list[NumPyArray], list[LayerState]]:
        take, read = self._adapter.from_numpy, self._adapter.to_numpy
        new, after = self._adapter.step(
            list(map(take, params)), list(map(take, grads)), self._taken(states), hp, layer_axes
        )
        return list(map(read, new)), self._read(after)

    def reload(self, how: str, params: list[NumPyArray], states: list[LayerState], hp: Any) -> list[LayerState]:
        taken = list(map(self._adapter.from_numpy, params))
        return self._read(self._adapter.reload(how, taken, self._taken(states), hp))

    def _taken(self, states: list[LayerState]) -> list[LayerState]:
        take = self._adapter.from_numpy
        return [LayerState(take(m), take(v), t) for m, v, t in states]

    def _read(self, states: list[LayerState]) -> list[LayerState]:
        read = self._adapter.to_numpy
        return [LayerState(read(m), read(v), t) for m, v, t in states]


def serve() -> None:
    """Answer requests until stdin ends, which is also when the kit's process has been killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the framework prints
    requests: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
    threading.Thread(target=_read_all, args=(sys.stdin.buffer, requests), daemon=True).start()
    there = _There()
    while True:
        method, arguments = requests.get()
        try:
            reply = False, getattr(there, method)(*arguments)
        except Exception as error:
            reply = True, _picklable(error)
        pickle.dump(reply, answers)
        answers.flush()


def _read_all(stdin: BinaryIO, requests: "queue.SimpleQueue[Any]") -> None:
    """Queue what is read, and end this process with its input, whatever it is computing then."""
    try:
        while True:
            requests.put(pickle.load(stdin))
    except EOFError:
        os._exit(0)


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # TensorFlow's own cannot be rebuilt
        return ValueError(f"{type(error).__name__}: {error}")
    return error
