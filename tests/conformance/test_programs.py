"""examples/adapters/programs: the adapters themselves, apart from what the kit says of the libraries behind them.

An adapter is right if its step from a given state is the library's own: three steps that the library takes by itself,
with its state in its own hands, have the same bits as three steps over the line protocol, where each loads the state.
β₁ = ½ and β₂ = ¾ have exact powers, so nothing depends on how they are formed.
"""

import json
import shlex
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from setadam_conformance.adapters.command import CommandAdapter, RefusedError
from setadam_conformance.cases.case import DEFAULTS
from setadam_conformance.protocol import ADAM, ADAMW, LayerState

PROGRAMS = Path(__file__).parents[2] / "examples/adapters/programs"
NODE, COMPILER = shutil.which("node"), shutil.which("g++") or shutil.which("clang++")
HP = {**DEFAULTS, **ADAM, "lr": 0.125, "beta1": 0.5, "beta2": 0.75, "eps": 1e-8}
DECAYING = {"weight_decay": 0.25}
START = [1.0, -2.0, 0.5, 0.0]
GRADIENTS = [[0.5, -0.75, 1e-3, 0.0], [0.25, 0.3, -2.0, 0.0], [-1.0, 0.1, 1e-6, 3.0]]
NUMBERS = ", ".join(f"{name} = {json.dumps(x)}" for name, x in (("START", START), ("GRADIENTS", GRADIENTS)))

# Three steps by the library alone, printed as [parameter, m, v] after each.
TFJS = """
import * as tf from "@tensorflow/tfjs";
await tf.setBackend("cpu");
const x = tf.variable(tf.tensor(START)), optimizer = tf.train.adam(0.125, 0.5, 0.75, 1e-8), found = [];
for (const grad of GRADIENTS) {
  optimizer.applyGradients([{ name: x.name, tensor: tf.tensor(grad) }]);
  const weights = await optimizer.getWeights();
  found.push([x, weights[1].tensor, weights[2].tensor].map((one) => [...one.dataSync()]));
}
console.log(JSON.stringify(found));
"""
JS_PYTORCH = """
import { torch } from "js-pytorch";
const x = torch.tensor(START, true), optimizer = new torch.optim.Adam([x], 0.125, 0.25, [0.5, 0.75], 1e-8);
console.log(JSON.stringify(GRADIENTS.map((grad) => {
  x._grad = torch.tensor(grad);
  optimizer.step();
  return [x.data, x.m.data, x.v.data];
})));
"""
DEEPBOX = """
import { parameter, tensor } from "deepbox/ndarray";
import { KIND } from "deepbox/optim";
const float64 = { dtype: "float64" }, x = parameter(tensor(START, float64));
const optimizer = new KIND([x], { lr: 0.125, beta1: 0.5, beta2: 0.75, eps: 1e-8, weightDecay: 0.25 });
console.log(JSON.stringify(GRADIENTS.map((grad) => {
  x.setGrad(tensor(grad, float64));
  optimizer.step();
  const { expAvg, expAvgSq } = optimizer.stateDict().state[0].state;
  return [x.tensor.data, expAvg, expAvgSq].map((one) => [...one]);
})));
"""
# By name: program, package, dtype, hyperparameters, and the library alone.
SCRIPTS = {
    "tfjs": ("tfjs_adam.mjs", "@tensorflow/tfjs", "float32", HP, TFJS),
    "js-pytorch": ("js_pytorch_adam.mjs", "js-pytorch", "float64", {**HP, **ADAMW, **DECAYING}, JS_PYTORCH),
    "deepbox-adam": ("deepbox_adam.mjs adam", "deepbox", "float64", HP | DECAYING, DEEPBOX.replace("KIND", "Adam")),
    "deepbox-adamw": (
        "deepbox_adam.mjs adamw",
        "deepbox",
        "float64",
        {**HP, **ADAMW, **DECAYING},
        DEEPBOX.replace("KIND", "AdamW"),
    ),
}


@contextmanager
def _program(name):
    """The program behind this name, if it can run here."""
    command, package, *_ = SCRIPTS[name]
    if NODE is None:
        pytest.skip("no node on this machine")
    if not (PROGRAMS / "node_modules" / package).is_dir():
        pytest.skip(f"{package} is not installed: run npm install in {PROGRAMS.name}/")
    with CommandAdapter(f"{shlex.quote(NODE)} {shlex.quote(str(PROGRAMS))}/{command}") as adapter:
        yield adapter


def _three_steps(adapter, dtype, hp):
    """[parameter, m, v] after each, from the zero state."""
    x = np.array(START, dtype)
    state, found = LayerState(0 * x, 0 * x, 0), []
    for grad in GRADIENTS:
        (x,), (state,) = adapter.step([x], [np.array(grad, dtype)], [state], hp, [None])
        found.append([x.tolist(), state.m.tolist(), state.v.tolist()])
    assert state.t == 3
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_given_state_is_the_one_that_the_library_would_have(name):
    *_, dtype, hp, script = SCRIPTS[name]
    with _program(name) as adapter:
        alone = subprocess.run(
            [NODE, "--input-type=module", "--eval", f"const {NUMBERS};{script}"],
            cwd=PROGRAMS,
            check=True,
            capture_output=True,
        )
        assert _three_steps(adapter, dtype, hp) == json.loads(alone.stdout)


@pytest.mark.parametrize("name", ["tfjs", "deepbox-adam", "deepbox-adamw"])
def test_first_step_moves_by_the_learning_rate(name):
    """m̂ = g and v̂ = g², so θ moves by η g/(|g| + ε)."""
    dtype = SCRIPTS[name][2]
    with _program(name) as adapter:
        _first_step_is(adapter, dtype, lambda g: 0.125 * g / (abs(g) + 1e-8))


def test_js_pytorch_corrects_no_bias():
    """θ moves by η m/(√v + ε), with m = (1-β₁)g and v = (1-β₂)g². With β₁ = ½ and β₂ = 15/16, that is about 2η.

    With β₂ = ¾ as above, it would be η, as in Adam.
    """
    with _program("js-pytorch") as adapter:
        _first_step_is(adapter, "float64", lambda g: 0.125 * 0.5 * g / (0.25 * abs(g) + 1e-8), beta2=0.9375)


def _first_step_is(adapter, dtype, move, **hp):
    """θ starts at 0, so its error is that of the update: at most 12 roundings, of m, v, corrections and quotients."""
    grad = np.array([0.5, -0.75, 1e-3, 3.0], dtype)
    zero = 0 * grad
    hp = {**HP, **adapter.capabilities.fixed, **hp}
    (param,), _ = adapter.step([zero], [grad], [LayerState(zero, zero, 0)], hp, [None])
    np.testing.assert_allclose(param, -move(grad.astype(float)), rtol=12 * np.finfo(dtype).eps / 2)


@pytest.mark.parametrize("name", SCRIPTS)
def test_layers_and_shapes(name):
    """Layers of a call keep apart and in order, and the last axis is the fastest."""
    dtype, hp = SCRIPTS[name][2:4]
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 4), (), (1,), (0,), (3, 0), (5,)]
    params, grads, m, v = ([rng.uniform(1, 2, shape).astype(dtype) for shape in shapes] for _ in "pgmv")
    states = [LayerState(*both, 7) for both in zip(m, v, strict=True)]
    with _program(name) as adapter:
        after, _ = adapter.step(params, grads, states, hp, [None] * len(shapes))
        for i, (shape, found) in enumerate(zip(shapes, after, strict=True)):
            assert found.shape == shape
            flat = [x[i].ravel() for x in (params, grads, m, v)]
            (alone,), _ = adapter.step(flat[:1], flat[1:2], [LayerState(*flat[2:], 7)], hp, [None])
            assert np.array_equal(alone, found.ravel())


def test_tfjs_conforms(verdicts):
    with _program("tfjs") as adapter:
        cells = verdicts(adapter, max_examples=2, properties=("one-step", "zero-betas", "step-counts", "trajectory"))
    assert {name: cell.failure or cell.reason for name, cell in cells.items() if cell.status != "pass"} == {}
    assert len(cells) == 4


@pytest.mark.parametrize("name", ["deepbox-adam", "deepbox-adamw"])
def test_deepbox_refuses_what_is_not_finite(name):
    dtype, hp = SCRIPTS[name][2:4]
    x, zero = np.array([1, np.nan, 3], dtype), np.zeros(3, dtype)
    with _program(name) as adapter, pytest.raises(RefusedError, match="InvalidParameterError: Invalid gradient: NaN"):
        adapter.step([zero], [x], [LayerState(zero, zero, 0)], hp, [None])


ECHO = """
import { serve } from "./line_protocol.mjs";
await serve({ dtypes: ["float64"] }, ({ t, hp, layers }) => {
  if (Number.isNaN(hp.lr)) throw new RangeError("lr is NaN");
  if (hp.eps !== 1e-8 || hp.maximize !== false) throw new Error("settings");
  return { t: t + 1, layers };
});
"""


@pytest.fixture
def echo(tmp_path):
    """A program in JavaScript whose step returns its inputs."""
    if NODE is None:
        pytest.skip("no node on this machine")
    shutil.copy(PROGRAMS / "line_protocol.mjs", tmp_path)
    (tmp_path / "echo.mjs").write_text(ECHO, encoding="utf-8")
    with CommandAdapter(f"{shlex.quote(NODE)} {shlex.quote(str(tmp_path / 'echo.mjs'))}") as adapter:
        yield adapter


def test_line_protocol_is_exact(echo):
    rng = np.random.default_rng(0)
    edges = [0.0, 5e-324, 2.2250738585072014e-308, 2.225073858507201e-308, 0.1, 1.0, 1.7976931348623157e308, np.inf]
    powers = 2.0 ** np.arange(-1074, 1024)
    for sent in (np.array([*edges, np.nan]), -np.array(edges), powers, rng.bytes(8 * 5000)):
        x = np.frombuffer(sent, np.float64) if isinstance(sent, bytes) else sent
        (found,), (state,) = echo.step([x], [x], [LayerState(x, x[::-1], 0)], DEFAULTS, [None])
        for got, was in ((found, x), (state.m, x), (state.v, x[::-1])):
            numbers = ~np.isnan(was)
            assert np.array_equal(np.isnan(got), ~numbers)
            assert np.array_equal(got[numbers].view(np.uint64), was[numbers].view(np.uint64))


def test_line_protocol_turns_an_exception_into_a_refusal(echo):
    x = np.ones(3)
    state = LayerState(x, x, 0)
    with pytest.raises(RefusedError, match="RangeError: lr is NaN"):
        echo.step([x], [x], [state], {**DEFAULTS, "lr": np.nan}, [None])
    assert echo.step([x], [x], [state], DEFAULTS, [None])[1][0].t == 1  # and goes on


# The program as it is, and with two arguments the library alone.
LIBTORCH = """
#define main program
#include "torch_adam.cpp"
#undef main

template <class Optimizer, class Options, class State> static int alone(torch::Dtype dtype)
{
    const Tensor x = torch::tensor({START}, torch::kFloat64).to(dtype);
    const std::vector<Tensor> grads = {GRADIENTS};
    Optimizer optimizer(std::vector<Tensor>{x}, Options(0.125).betas({0.5, 0.75}).eps(1e-8).weight_decay(0.25));
    for (size_t i = 0; i < grads.size(); i++) {
        x.mutable_grad() = grads[i].to(dtype);
        optimizer.step();
        const State &state = static_cast<State &>(*optimizer.state()[x.unsafeGetTensorImpl()]);
        for (const Tensor &one : {x, state.exp_avg(), state.exp_avg_sq()})
            for (int64_t j = 0; j < one.numel(); j++) std::printf("%a ", one[j].item<double>());
    }
    return 0;
}

int main(int count, char **arguments)
{
    if (count == 2) return program(count, arguments);
    using namespace torch::optim;
    const torch::Dtype dtypes[] = {torch::kFloat64, torch::kFloat32, torch::kFloat16, torch::kBFloat16};
    const torch::Dtype dtype = dtypes[std::atoi(arguments[2])];
    if (arguments[1] == std::string("adam")) return alone<Adam, AdamOptions, AdamParamState>(dtype);
    return alone<AdamW, AdamWOptions, AdamWParamState>(dtype);
}
"""
DTYPES = ("float64", "float32", "float16", "bfloat16")


def _in_braces(numbers):
    return ", ".join(map(repr, numbers))


@pytest.fixture(scope="module")
def libtorch(tmp_path_factory):
    """torch_adam.cpp, compiled: its path."""
    torch = pytest.importorskip("torch")
    if COMPILER is None:
        pytest.skip("no C++ compiler on this machine")
    home = Path(torch.__path__[0])
    folder = tmp_path_factory.mktemp("libtorch")
    gradients = ", ".join(f"torch::tensor({{{_in_braces(grad)}}}, torch::kFloat64)" for grad in GRADIENTS)
    source = LIBTORCH.replace("{START}", f"{{{_in_braces(START)}}}").replace("{GRADIENTS}", f"{{{gradients}}}")
    (folder / "both.cpp").write_text(source, encoding="utf-8")
    headers = [f"-isystem{home}/include", f"-isystem{home}/include/torch/csrc/api/include", f"-I{PROGRAMS}"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    libraries = [f"-L{home}/lib", f"-Wl,-rpath,{home}/lib", "-ltorch", "-ltorch_cpu", "-lc10"]
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", abi]
    subprocess.run([COMPILER, *flags, *headers, folder / "both.cpp", "-o", folder / "both", *libraries], check=True)
    return folder / "both"


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "fixed"), [("adam", ADAM), ("adamw", ADAMW)])
def test_libtorch_with_a_given_state_steps_as_by_itself(libtorch, kind, fixed, dtype):
    pytest.importorskip("ml_dtypes")
    alone = subprocess.run([libtorch, kind, str(DTYPES.index(dtype))], check=True, capture_output=True, text=True)
    numbers = np.array([float.fromhex(text) if "n" not in text else np.nan for text in alone.stdout.split()])
    with CommandAdapter(f"{shlex.quote(str(libtorch))} {kind}") as adapter:
        found = _three_steps(adapter, np.dtype(dtype), {**HP, **fixed, **DECAYING})
    np.testing.assert_array_equal(np.array(found, float), numbers.reshape(3, 3, len(START)))


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_libtorch_conforms(libtorch, kind, verdicts):
    with CommandAdapter(f"{shlex.quote(str(libtorch))} {kind}") as adapter:
        _first_step_is(adapter, "float64", lambda g: 0.125 * g / (abs(g) + 1e-8))
        cells = verdicts(adapter, max_examples=4, properties=("one-step", "zero-betas", "step-counts", "trajectory"))
        with pytest.raises(RefusedError, match="Invalid learning rate: -1"):
            _first_step_is(adapter, "float64", lambda g: g, lr=-1.0)
    assert {name: cell.failure or cell.reason for name, cell in cells.items() if cell.status != "pass"} == {}
    assert len(cells) == 4
