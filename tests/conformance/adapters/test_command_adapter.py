"""The line protocol: exact in both directions, faults are not refusals, and no process is left behind."""

import json
import re
import shlex
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setadam_conformance.adapters.command import CommandAdapter, RefusedError
from setadam_conformance.cases.case import DEFAULTS
from setadam_conformance.cases.formats import FORMATS, compute_format
from setadam_conformance.protocol import OPTIONS, Adapter, Capabilities, LayerState, ProtocolError

DOCS = Path(__file__).parents[3] / "docs/conformance.md"
START = '{"protocol":1,"name":"echo","dtypes":["float64","float32","bfloat16","float16"]}'
# Replies with its inputs, or with the Python expression REPLY if it is set.
ECHO = """
import json, sys, time
def say(**reply):
    print(json.dumps(reply), flush=True)
for line in sys.stdin:
    ask = json.loads(line)
    if ask["cmd"] == "stop":
        break
    if ask["cmd"] == "start":
        print({start!r}, flush=True)
        continue
    layers = [dict(param=x["param"], m=x["m"], v=x["v"]) for x in ask["layers"]]
    seq, t = ask["seq"], ask["t"] + 1
    {reply}
"""
SILENT = """
import sys, time
sys.stdin.readline()
print("thinking", file=sys.stderr, flush=True)
print({start!r}, flush=True)
time.sleep(60)
"""
GOOD = "say(seq=seq, t=t, layers=layers)"


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """`command(reply, start)`: a command that runs an echo program with this reply."""
    folder, count = tmp_path_factory.mktemp("programs"), iter(range(1000))

    def write(reply=GOOD, start=START, text=ECHO):
        path = folder / f"program_{next(count)}.py"
        path.write_text(text.format(reply=reply, start=start), encoding="utf-8")
        return f"{shlex.quote(sys.executable)} -S {shlex.quote(str(path))}"

    return write


@pytest.fixture(scope="module")
def echo(command):
    with CommandAdapter(command()) as adapter:
        yield adapter


def _step(adapter, param=None, hp=DEFAULTS, t=3, dtype="float32", axes=None):
    param = np.ones(3, dtype) if param is None else param
    m = np.ones(3, compute_format(dtype).numpy)
    return adapter.step([param], [param], [LayerState(m, m, t)], hp, [axes])


def _bits(x):
    return x.view(f"u{x.dtype.itemsize}")


def _same_bits(got, sent):
    assert got.dtype == sent.dtype
    assert got.shape == sent.shape
    with np.errstate(invalid="ignore"):  # signalling NaNs
        nan = np.isnan(sent)
        assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(_bits(got)[~nan], _bits(sent)[~nan])


def test_is_an_adapter(echo):
    assert isinstance(echo, Adapter)
    assert echo.name == "cmd:echo"
    assert echo.framework == "cmd"
    assert echo.capabilities == Capabilities(dtypes=("float64", "float32", "bfloat16", "float16"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_16_bit_pattern_survives(echo, dtype):
    x = np.arange(2**16, dtype=np.uint16).view(FORMATS[dtype].numpy)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float32)
    (param,), (state,) = echo.step([x], [x], [LayerState(wide, wide, 9)], DEFAULTS, [None])
    _same_bits(param, x)
    _same_bits(state.m, wide)
    _same_bits(state.v, wide)
    assert state.t == 10


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_bits_survive(echo, dtype):
    width = FORMATS[dtype].numpy.itemsize

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.integers(0, 2 ** (8 * width) - 1), max_size=20))
    def check(patterns):
        x = np.array(patterns, f"u{width}").view(dtype)
        (param,), (state,) = echo.step([x], [x], [LayerState(x, x[::-1], 0)], DEFAULTS, [None])
        _same_bits(param, x)
        _same_bits(state.m, x)
        _same_bits(state.v, x[::-1].copy())

    check()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_edges_of_a_format_survive(echo, dtype):
    fmt = FORMATS[dtype]
    edges = [
        0.0,
        fmt.smallest_subnormal,
        fmt.smallest_normal,
        1 + 2 * fmt.u,
        1 - fmt.u,
        fmt.largest,
        np.inf,
    ]
    x = np.array(edges + [-e for e in edges] + [np.nan], dtype)
    (param,), _ = echo.step([x], [x], [LayerState(x, x, 0)], DEFAULTS, [None])
    _same_bits(param, x)


def test_shapes_layouts_and_complex_arrays_survive(echo):
    arrays = [
        np.array(2.5),
        np.zeros((3, 0)),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(10.0)[::2],
        np.array(1 - 2j),
        np.arange(4).reshape(2, 2) * (1 + 0.5j),
        np.zeros((0, 2), complex),
    ]
    states = [LayerState(*[np.ones(x.shape + ((2,) if x.dtype == complex else ()))] * 2, 0) for x in arrays]
    axes = [None, None, (0,), None, None, (1,), None]
    params, new = echo.step(arrays, arrays, states, DEFAULTS, axes)
    for sent, got, old, state in zip(arrays, params, states, new, strict=True):
        assert got.dtype == sent.dtype
        assert np.array_equal(got, sent)
        assert got.shape == sent.shape
        assert state.m.shape == old.m.shape


def test_a_step_without_layers_works(echo):
    assert echo.step([], [], [], DEFAULTS, []) == ([], [])


def test_hyperparameters_are_sent_unchanged(command):
    refuse = 'say(seq=seq, error=dict(kind="Seen", message=json.dumps(ask["hp"])))'
    odd = {"lr": 0.1, "tau": float("nan"), "eps": None, "beta1": "x", "beta2": 10**400, "cos_power": 2}
    with CommandAdapter(command(refuse)) as adapter, pytest.raises(RefusedError) as error:
        _step(adapter, hp={**odd, "maximize": True})
    assert error.value.kind == "Seen"
    assert json.loads(str(error.value).removeprefix("Seen: ")) == {
        "lr": (0.1).hex(), "tau": "nan", "eps": None, "beta1": None, "beta2": "inf",
        "cos_power": "0x1.0000000000000p+1", "maximize": True,
    }  # fmt: skip


def test_after_a_refusal_the_program_continues(command):
    reply = 'say(seq=seq, error=dict(kind="ValueError", message="lr is odd"))'
    with CommandAdapter(command(reply)) as adapter:
        for _ in range(2):
            with pytest.raises(RefusedError, match="ValueError: lr is odd"):
                _step(adapter)


def test_what_the_protocol_cannot_express_is_refused_by_the_kit(echo):
    x = np.ones((2, 3), np.float32)
    state = LayerState(x, x, 0)
    for params, grads, states, axes in [
        ([x], [x.T], [state], [None]),
        ([x], [x.astype(np.float64)], [state], [None]),
        ([x], [x], [state._replace(m=x[0])], [None]),
        ([x], [x], [state], []),
        ([x, x], [x, x], [state, state._replace(t=1)], [None, None]),
        ([x, x.astype(float)], [x, x.astype(float)], [state, state], [None, None]),
        ([x.astype(int)], [x.astype(int)], [state], [None]),
    ]:
        with pytest.raises(RefusedError):
            echo.step(params, grads, states, DEFAULTS, axes)
    _step(echo)


FAULTS = {
    "seq": (
        "say(seq=seq + 1, t=t, layers=layers)",
        "must answer with seq 1, got 2",
    ),
    "no seq": (
        "say(t=t, layers=layers)",
        "must answer with seq 1, got None",
    ),
    "garbage": ("print('Segmentation fault', flush=True)", "not JSON"),
    "not utf-8": ("sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.flush()", "not JSON"),
    "an array": ("print('[]', flush=True)", "must reply with a JSON object"),
    "JSON's NaN": ("print('{\"seq\":NaN}', flush=True)", "NaN is not JSON"),
    "cut": ("sys.stdout.write('{\"seq\":1'); sys.exit()", "without a newline"),
    "endless": ("sys.stdout.write('x' * 10**6); sys.stdout.flush(); time.sleep(60)", "wrote more than"),
    "short": ("layers[0]['m'].pop(); " + GOOD, "layers[0].m as an array of 3 numbers, got 2"),
    "long": ("layers[0]['v'].append('nan'); " + GOOD, "layers[0].v as an array of 3 numbers, got 4"),
    "no m": ("del layers[0]['m']; " + GOOD, "layers[0].m as an array of 3 numbers, got 'null'"),
    "layers": ("layers *= 2; " + GOOD, "layers as an array of 1, got 2"),
    "layer": ("layers = [None]; " + GOOD, "layers[0] as an object"),
    "number": ("layers[0]['param'][1] = 1.5; " + GOOD, "layers[0].param[1] as a string like"),
    "decimal": ("layers[0]['param'][1] = '10.5'; " + GOOD, "layers[0].param[1] as a string like"),
    "too wide": ("layers[0]['m'][2] = '0x1.0000000000001p+0'; " + GOOD, "which is not a float32"),
    "too large": ("layers[0]['m'][2] = '0x1p+128'; " + GOOD, "which is not a float32"),
    "far too large": ("layers[0]['m'][2] = '0x1p+9999'; " + GOOD, "beyond the range of float64"),
    "t": ("t = None; " + GOOD, "must give t"),
    "error": ("say(seq=seq, error='no')", "must give error a kind"),
    "death": ("print('out of luck', file=sys.stderr); sys.exit(7)", "ended with exit status 7"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_reported_and_ends_the_program(command, name):
    reply, words = FAULTS[name]
    adapter = CommandAdapter(command(reply))
    with pytest.raises(ProtocolError, match=re.escape(words)) as error:
        _step(adapter)
    if name == "death":
        assert "its stderr ended with:\nout of luck" in str(error.value)
    assert adapter._process.returncode is not None
    with pytest.raises(ProtocolError, match="is closed"):
        _step(adapter)


@pytest.mark.parametrize("size", [3, 10**5])
def test_a_late_reply_is_a_timeout(command, size):
    """With 3 numbers the program does not reply; with 10⁵ it does not even read the whole request."""
    x = np.ones(size)
    adapter = CommandAdapter(command(text=SILENT))
    adapter.timeout = 1.0  # the start may take longer on a busy machine
    before = time.monotonic()
    with pytest.raises(ProtocolError, match=r"gave no reply in 1 s\nits stderr ended with:\nthinking"):
        adapter.step([x], [x], [LayerState(x, x, 0)], DEFAULTS, [None])
    assert time.monotonic() - before < 30
    assert adapter._process.returncode is not None


STARTS = {
    '{"protocol":2,"dtypes":["float32"]}': "must speak protocol 1, got 2",
    '{"dtypes":["float32"]}': "must speak protocol 1, got None",
    '{"protocol":1}': "must name the dtypes",
    '{"protocol":1,"dtypes":["int8"]}': "claims dtypes .*must be among",
    '{"protocol":1,"dtypes":[]}': "claims dtypes .*must be at least one of",
    '{"protocol":1,"dtypes":"float32"}': "claims dtypes 'float32'; it must be a tuple of strings",
    '{"protocol":1,"dtypes":[["float32"]]}': "claims dtypes .*must be a tuple of strings",
    '{"protocol":1,"dtypes":["float32"],"options":["magic"]}': "claims options .*must be among",
    '{"protocol":1,"dtypes":["float32"],"options":{}}': "claims options .*must be a frozenset of strings",
    '{"protocol":1,"dtypes":["float32"],"reduction":"best"}': "claims reduction 'best'; it must be one of pairwise",
    '{"protocol":1,"dtypes":["float32"],"reduction":["any"]}': "claims reduction .*must be one of",
    '{"protocol":1,"dtypes":["float32"],"traced_t":1}': "claims traced_t 1; it must be true or false",
    '{"protocol":1,"dtypes":["float32"],"cost":1.5}': "claims cost 1.5; it must be a whole number ≥ 1",
    '{"protocol":1,"dtypes":["float32"],"largest_t":true}': "claims largest_t True; it must be a whole number",
    '{"protocol":1,"dtypes":["float32"],"fixed":{"momentum":0}}': "claims fixed .*must be a mapping from hyperparam",
    '{"protocol":1,"dtypes":["float32"],"fixed":{"tau":2}}': "claims fixed .*tau must be in",
    '{"protocol":1,"dtypes":["float32"],"fixed":{"maximize":0}}': "claims fixed .*maximize must be True or False",
    '{"protocol":1,"dtypes":["float32"],"fixed":[]}': "claims fixed .*must be a mapping",
    '{"protocol":1,"dtypes":["float32"],"epsilon":"gone"}': "claims epsilon 'gone'; it must be one of given, both",
    '{"protocol":1,"dtypes":["float32"],"float32_scalars":["maximize"]}': "claims float32_scalars .*must be among",
    '{"protocol":1,"dtypes":["float32"],"exact":true}': "claims 'exact'",
    '{"protocol":1,"dtypes":["float32"],"in_place":true}': "claims 'in_place'",
    '{"protocol":1,"dtypes":["float32"],"name":3}': "name must be a string",
    '{"error":{"kind":"OSError","message":"no licence"}}': "refused to start: .*no licence",
}


@pytest.mark.parametrize("start", STARTS)
def test_a_wrong_start_is_reported(command, start):
    with pytest.raises(ProtocolError, match=STARTS[start]):
        CommandAdapter(command(start=start))


def test_claims_are_received(command):
    start = (
        '{"protocol":1,"dtypes":["float32"],"devices":["npu"],"options":["empty"],"reduction":"any",'
        '"flushes_subnormals":true,"recomputes_moments":true,"traced_t":true,"deterministic":false,"compiles":true}'
    )
    with CommandAdapter(command(start=start), device="npu") as adapter:
        assert adapter.capabilities == Capabilities(
            dtypes=("float32",), devices=("npu",), options=frozenset({"empty"}), reduction="any",
            flushes_subnormals=True, recomputes_moments=True, traced_t=True, deterministic=False,
            compiles=True,
        )  # fmt: skip


def test_claims_of_an_adam_are_received(command):
    """And with the moments in the parameter's format, the kit sends and reads them in that format."""
    start = (
        '{"protocol":1,"dtypes":["bfloat16"],"fixed":{"cos_power":0,"tau":0,"eps_inside_sqrt":false},"epsilon":"both",'
        '"corrections":"cancelling","moments":"parameter","arithmetic":"parameter","corrected_moments":true,'
        '"float32_scalars":["lr","beta1"],"largest_t":2147483647}'
    )
    x = np.ones(1, ml_dtypes.bfloat16)
    reply = '{"seq":1,"t":1,"layers":[{"param":["0x1p0"],"m":["0x1p-1"],"v":["MOMENT"]}]}'
    for moment, fits in (("0x1.8p-1", True), ("0x1.000002p0", False)):
        say = f"print({reply.replace('MOMENT', moment)!r}, flush=True)"
        with CommandAdapter(command(say, start=start)) as adapter:
            assert adapter.capabilities == Capabilities(
                dtypes=("bfloat16",), fixed={"cos_power": 0, "tau": 0, "eps_inside_sqrt": False}, epsilon="both",
                corrections="cancelling", moments="parameter", arithmetic="parameter", corrected_moments=True,
                float32_scalars=("lr", "beta1"), largest_t=2**31 - 1,
            )  # fmt: skip
            with nullcontext() if fits else pytest.raises(ProtocolError, match="which is not a bfloat16"):
                _, ((m, v, t),) = adapter.step([x], [x], [LayerState(x, x, 0)], DEFAULTS, [None])
                assert (m.dtype, v.dtype, t) == (x.dtype, x.dtype, 1)


def test_no_such_device(command):
    with pytest.raises(RuntimeError, match="no device 'npu'"):
        CommandAdapter(command(), device="npu")


@pytest.mark.parametrize("words", ["no-such-program-anywhere", "", "unclosed 'quote"])
def test_no_such_program(words):
    with pytest.raises(ProtocolError):
        CommandAdapter(words)


def test_stop_ends_the_program(command):
    with CommandAdapter(command()) as adapter:
        _step(adapter)
        process = adapter._process
        assert process.poll() is None
    assert process.returncode == 0
    assert all(pipe.closed for pipe in (process.stdin, process.stdout, process.stderr))
    adapter.close()


def test_a_program_that_does_not_stop_is_killed(command):
    adapter = CommandAdapter(command())
    adapter.timeout = 0.2
    adapter._process.send_signal(signal.SIGSTOP)  # a process that is stopped by SIGSTOP does not read the stop command
    adapter.close()
    assert adapter._process.returncode == -9


def test_the_exchange_in_the_documentation(tmp_path):
    """docs/conformance.md shows requests («→») and replies («←»): a program with just these replies gets exactly these
    requests, and its replies are accepted.
    """
    text = DOCS.read_text(encoding="utf-8")
    sent = re.findall(r"^→ (.*)$", text, re.MULTILINE)
    answers = re.findall(r"^← (.*)$", text, re.MULTILINE)
    assert [json.loads(line)["cmd"] for line in sent] == ["start", "step", "step", "stop"]
    program = tmp_path / "scripted.py"
    program.write_text(
        f"import sys\nsent, answers = {sent!r}, {answers!r}\n"
        "for want, answer in zip(sent, [*answers, '']):\n"
        "    got = sys.stdin.readline().rstrip('\\n')\n"
        "    if got != want: sys.exit(f'got {got}')\n"
        "    print(answer, flush=True)\n",
        encoding="utf-8",
    )
    x, zero = np.array([1, -2], np.float32), np.zeros(2, np.float32)
    grad = np.array([0.5, 0], np.float32)
    with CommandAdapter(f"{shlex.quote(sys.executable)} {shlex.quote(str(program))}") as adapter:
        assert adapter.capabilities.options == OPTIONS - {"layer_axes", "complex"}
        (param,), (state,) = adapter.step([x], [grad], [LayerState(zero, zero, 0)], DEFAULTS, [None])
        assert param[0] < 1
        assert param[1] == -2
        assert np.allclose(state.m, [0.05, 0])
        with pytest.raises(RefusedError, match="lr must be a number"):
            adapter.step([x], [grad], [LayerState(zero, zero, 0)], {**DEFAULTS, "lr": -0.1}, [None])
    assert adapter._process.returncode == 0
