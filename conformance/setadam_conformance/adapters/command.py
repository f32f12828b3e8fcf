"""A program in any language as a backend: `--backend cmd:"program args"`.

The kit and the program exchange one JSON object per line over stdin and stdout; docs/conformance.md lists every field.
The numbers of the step are strings in C99's hexadecimal notation, which is exact. JSON's decimal numbers are only for
counts. A program that breaks the protocol raises `ProtocolError`, which is never a verdict. Only a reply with `error`
counts as a refusal.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, NoReturn, Self, get_origin

import numpy as np

from setadam_conformance.adapters.claims import CLAIMS, wrong_claim
from setadam_conformance.cases.case import Case, dtype_of, real_view
from setadam_conformance.cases.formats import FORMATS, compute_format, moment_format
from setadam_conformance.protocol import Capabilities, LayerState, NumPyArray, ProtocolError

PROTOCOL = 1
_SPECIAL = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
# A double as printf("%a") and float.hex write it: at most 53 bits, so reading it does not round.
_HEX = re.compile(r"[+-]?0[xX][01](\.[0-9a-fA-F]{0,13})?[pP][+-]?[0-9]{1,5}")
# Claims that a program cannot make: arrays are copied through the pipe, and its optimizer cannot be reloaded.
_NOT_ON_THE_LINE = {"in_place", "layouts", "reloads"}
_STDERR_LINES = 20


class RefusedError(ValueError):
    """The program refused the step. `kind` is the program's name for the error ("ValueError", …)."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class CommandAdapter:
    """An `Adapter` around a running program.

    Parameters
    ----------
    command : program and arguments, split as a POSIX shell would; no shell is involved.
    device : sent in the start message; RuntimeError if the program does not claim it.
    timeout : the program is killed if a reply takes more than this many seconds.
    """

    framework = "cmd"

    def __init__(self, command: str, device: str = "cpu", timeout: float = 60.0) -> None:
        self.name = f"cmd:{command}"
        self.timeout = timeout
        self._seq = 0
        self._closed = False
        self._fault = ""  # why it was closed
        self._late = threading.Event()
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        try:
            arguments = shlex.split(command)
        except ValueError as error:
            raise ProtocolError(f"cannot read the command {command!r}: {error}") from error
        if not arguments:
            raise ProtocolError(f"the command must name a program, got {command!r}")
        try:
            # A separate session, so that a timeout also kills the program's children.
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ProtocolError(f"cannot start {arguments[0]!r}: {error}") from error
        self._stderr_reader = threading.Thread(target=self._drain, daemon=True)
        self._stderr_reader.start()
        start = {"cmd": "start", "protocol": PROTOCOL, "device": device}
        with self._fault_closes():
            self.capabilities = self._capabilities(self._exchange(start, values=0))
        if device not in self.capabilities.devices:
            self.close()
            raise RuntimeError(f"{self.name} has no device {device!r}, only {self.capabilities.devices}")

    def from_numpy(self, x: NumPyArray) -> NumPyArray:
        return x.copy(order="K")

    def to_numpy(self, x: NumPyArray) -> NumPyArray:
        return x

    def step(
        self,
        params: Sequence[NumPyArray],
        grads: Sequence[NumPyArray],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[NumPyArray], list[LayerState]]:
        """One exchange. RefusedError if the program refuses, or if the protocol cannot express the arguments."""
        request = _request(self._seq + 1, params, grads, states, hp, layer_axes, self.capabilities)
        self._seq += 1
        with self._fault_closes():
            reply = self._exchange(request, values=sum(p.size for p in params) * 6)
            return self._decode(reply, request["dtype"], params)

    def close(self) -> None:
        """Send stop, wait for the program to end, and kill it if it does not. May be called twice."""
        if self._closed:
            return
        self._closed = True
        stdin, stdout = self._pipes()
        with contextlib.suppress(OSError):
            if self._process.poll() is None:
                stdin.write(b'{"cmd":"stop"}\n')
        with contextlib.suppress(OSError):
            stdin.close()
        try:
            self._process.wait(timeout=min(self.timeout, 5.0))
        except subprocess.TimeoutExpired:
            self._kill()
        self._process.wait()
        self._stderr_reader.join(timeout=1.0)
        stdout.close()
        if not self._stderr_reader.is_alive() and self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_stderr_reader"):
            self.close()

    def _exchange(self, message: Mapping[str, Any], values: int) -> dict[str, Any]:
        """Send one line and read one. `values`: the number of values in the reply, which limits its length."""
        if self._closed:
            raise ProtocolError(f"{self.name} is closed" + (f", as it {self._fault}" if self._fault else ""))
        stdin, stdout = self._pipes()
        longest = 65536 + 64 * values
        # A blocked write or read ends when the program ends.
        watchdog = threading.Timer(self.timeout, self._time_out)
        watchdog.start()
        try:
            stdin.write(_line(message).encode() + b"\n")
            stdin.flush()
            line = stdout.readline(longest)
        except OSError:
            line = b""
        finally:
            watchdog.cancel()
            watchdog.join()
        if self._late.is_set():
            self._fail(f"gave no reply in {self.timeout:g} s")
        if not line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1.0)
            status = self._process.poll()
            how = "closed its output" if status is None else f"ended with exit status {status}"
            self._fail(f"{how} before it replied")
        if not line.endswith(b"\n"):
            self._fail(f"ended its reply without a newline, or wrote more than {longest} bytes: {_short(line)}")
        try:
            reply = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            self._fail(f"wrote a line that is not JSON ({error}): {_short(line)}")
        if not isinstance(reply, dict):
            self._fail(f"must reply with a JSON object, got {_short(line)}")
        return reply

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        return stdin, stdout

    def _drain(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._stderr.append(line.decode(errors="replace").rstrip()[:500])

    def _time_out(self) -> None:
        self._late.set()
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    @contextlib.contextmanager
    def _fault_closes(self) -> Iterator[None]:
        """End the program after a fault: its later lines may not match later requests."""
        try:
            yield
        except ProtocolError:
            self._kill()
            self.close()
            raise

    def _fail(self, what: str) -> NoReturn:
        self._kill()
        self._fault = what
        self._stderr_reader.join(timeout=1.0)
        said = "\n".join(self._stderr)
        raise ProtocolError(f"{self.name} {what}" + (f"\nits stderr ended with:\n{said}" if said else ""))

    def _capabilities(self, reply: dict[str, Any]) -> Capabilities:
        """The capabilities in the reply to start. Fields that are left out have their defaults, except dtypes."""
        reply = dict(reply)
        if "error" in reply:
            self._fail(f"refused to start: {_short(json.dumps(reply['error']))}")
        version = reply.pop("protocol", None)
        if version != PROTOCOL or isinstance(version, bool):
            self._fail(f"must speak protocol {PROTOCOL}, got {version!r}")
        name = reply.pop("name", None)
        if name is not None:
            if not isinstance(name, str) or not name:
                self._fail(f"name must be a string that is not empty, got {name!r}")
            self.name = f"cmd:{name}"
        known = CLAIMS.keys() - _NOT_ON_THE_LINE
        for key, value in reply.items():
            if key not in known:
                self._fail(f"claims {key!r}; known claims: {', '.join(sorted(known))}")
            container = get_origin(CLAIMS[key])
            if container in (tuple, frozenset) and isinstance(value, list):
                reply[key] = container(x if isinstance(x, str) else None for x in value)
        if "dtypes" not in reply:
            self._fail("must name the dtypes that it supports")
        claims = Capabilities(**reply)
        if wrong := wrong_claim(claims):
            self._fail(wrong)
        return claims

    def _decode(
        self, reply: dict[str, Any], dtype: str, params: Sequence[NumPyArray]
    ) -> tuple[list[NumPyArray], list[LayerState]]:
        seq = reply.get("seq")
        if seq != self._seq or isinstance(seq, bool):
            self._fail(f"must answer with seq {self._seq}, got {seq!r}")
        if "error" in reply:
            error = reply["error"]
            if not isinstance(error, dict) or not all(isinstance(error.get(k), str) for k in ("kind", "message")):
                self._fail(f"must give error a kind and a message, got {_short(json.dumps(error))}")
            raise RefusedError(error["kind"], error["message"])
        t, layers = reply.get("t"), reply.get("layers")
        if type(t) is not int:
            self._fail(f"must give t, the number of steps taken, as an integer, got {t!r}")
        if not isinstance(layers, list) or len(layers) != len(params):
            got = len(layers) if isinstance(layers, list) else _short(json.dumps(layers))
            self._fail(f"must give layers as an array of {len(params)}, got {got}")
        new_params, states = [], []
        moments = moment_format(dtype, self.capabilities).name
        for index, (layer, param) in enumerate(zip(layers, params, strict=True)):
            real, where = real_view(param), f"layers[{index}]"
            if not isinstance(layer, dict):
                self._fail(f"must give {where} as an object, got {_short(json.dumps(layer))}")
            new = self._array(layer.get("param"), real.shape, dtype, f"{where}.param")
            m, v = (self._array(layer.get(k), real.shape, moments, f"{where}.{k}") for k in "mv")
            new_params.append(new.view(param.dtype).reshape(param.shape))
            states.append(LayerState(m, v, t))
        return new_params, states

    def _array(self, texts: Any, shape: tuple[int, ...], dtype: str, where: str) -> NumPyArray:
        count = int(np.prod(shape, dtype=int))
        if not isinstance(texts, list) or len(texts) != count:
            got = len(texts) if isinstance(texts, list) else _short(json.dumps(texts))
            self._fail(f"must give {where} as an array of {count} numbers, got {got}")
        wide = np.empty(count)
        for i, text in enumerate(texts):
            if isinstance(text, str) and _HEX.fullmatch(text):
                try:
                    wide[i] = float.fromhex(text)
                except OverflowError:
                    self._fail(f"gave {where}[{i}] beyond the range of float64: {text!r}")
            elif isinstance(text, str) and text in _SPECIAL:
                wide[i] = _SPECIAL[text]
            else:
                self._fail(
                    f"must give {where}[{i}] as a string like '0x1.8p-3', 'nan', 'inf' or '-inf', "
                    f"got {_short(json.dumps(text))}"
                )
        with np.errstate(all="ignore"):
            narrow = wide.astype(dtype_of(dtype))
            lost = ~((narrow.astype(np.float64) == wide) | np.isnan(wide))
        if np.any(lost):
            i = int(np.argmax(lost))
            self._fail(f"gave {where}[{i}] as {texts[i]!r}, which is not a {dtype}")
        return narrow.reshape(shape)


def request_lines(case: Case) -> str:
    """The two lines that ask a program for this step, to be piped into it by hand."""
    params, grads = [layer.param for layer in case.layers], [layer.grad for layer in case.layers]
    states = [LayerState(layer.m, layer.v, case.t) for layer in case.layers]
    is_narrow = case.layers[0].m.dtype != compute_format(case.dtype).numpy
    claims = Capabilities(dtypes=(case.dtype,), moments="parameter" if is_narrow else "compute")
    step = _request(1, params, grads, states, case.hp, [layer.axes for layer in case.layers], claims)
    return "\n".join(map(_line, ({"cmd": "start", "protocol": PROTOCOL, "device": "cpu"}, step)))


def _line(message: Mapping[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"), allow_nan=False)


def _request(
    seq: int,
    params: Sequence[NumPyArray],
    grads: Sequence[NumPyArray],
    states: Sequence[LayerState],
    hp: Mapping[str, Any],
    layer_axes: Sequence[tuple[int, ...] | None],
    claims: Capabilities,
) -> dict[str, Any]:
    """A request for one step. RefusedError if the protocol cannot express the arguments."""
    dtype, layers = _encode(params, grads, states, layer_axes, claims)
    return {
        "cmd": "step",
        "seq": seq,
        "dtype": dtype,
        "hp": {name: _setting(value) for name, value in hp.items()},
        "t": states[0].t if states else 0,
        "layers": layers,
    }


def _encode(
    params: Sequence[NumPyArray],
    grads: Sequence[NumPyArray],
    states: Sequence[LayerState],
    layer_axes: Sequence[tuple[int, ...] | None],
    claims: Capabilities,
) -> tuple[str, list[dict[str, Any]]]:
    """The real dtype's name, and the layers as they appear in a line.

    A line has one dtype for all layers and one shape for each layer. Arguments that contradict this are refused here,
    because the protocol cannot express them.
    """
    if not len(params) == len(grads) == len(states) == len(layer_axes):
        raise RefusedError("ValueError", "params, grads, states and layer_axes must have one entry for each layer")
    names = {str(real_view(p.reshape(-1)).dtype) for p in params} or {"float32"}
    if len(names) > 1 or not names <= set(FORMATS):
        raise RefusedError("TypeError", f"params must have one dtype of {', '.join(FORMATS)}, got {names}")
    (dtype,) = names
    layers = []
    for index, (param, grad, state, axes) in enumerate(zip(params, grads, states, layer_axes, strict=True)):
        real = real_view(param)
        for name, x, like in (
            ("grad", grad, (param.shape, param.dtype)),
            ("m", state.m, (real.shape, moment_format(dtype, claims).numpy)),
            ("v", state.v, (real.shape, moment_format(dtype, claims).numpy)),
        ):
            if (x.shape, x.dtype) != like:
                raise RefusedError(
                    "ValueError",
                    f"layers[{index}].{name} must be {like[0]} {like[1]}, got {x.shape} {x.dtype}",
                )
        if state.t != states[0].t:
            raise RefusedError("ValueError", f"all layers must have one t, got {state.t} and {states[0].t}")
        arrays = {"param": real, "grad": real_view(grad), "m": state.m, "v": state.v}
        layers.append(
            {
                "shape": list(param.shape),
                "axes": None if axes is None else list(axes),
                "complex": param.dtype.kind == "c",
                **{name: _hex(x) for name, x in arrays.items()},
            }
        )
    return dtype, layers


def _hex(x: NumPyArray) -> list[str]:
    """The numbers in C order, whatever the array's memory order. Every format is exact in float64."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return [_number(value) for value in x.astype(np.float64).ravel().tolist()]


def _number(x: float) -> str:
    return x.hex() if x - x == 0 else "nan" if x != x else "inf" if x > 0 else "-inf"


def _setting(value: Any) -> str | bool | None:
    """A hyperparameter: a switch as a JSON bool, a number as hexadecimal, and anything else as null. The program must
    refuse null, like a number out of range.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if not isinstance(value, int | float | np.integer | np.floating):
        return None
    try:
        return _number(float(value))
    except OverflowError:
        return "inf" if value > 0 else "-inf"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _short(text: str | bytes) -> str:
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    return repr(text if len(text) <= 200 else text[:200] + "…")
