"""Graphs of `export_step`: onnxruntime computes them within the kit's bound; inputs and outputs are as documented."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setadam_conformance import check_conformance
from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.judging.judge import judge
from setadam_conformance.protocol import Capabilities, LayerState
from setadam_core import onnx as exported

ndonnx = pytest.importorskip("ndonnx")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

OUTPUTS = ["new_param", "new_m", "new_v", "new_t"]
CLAIMS = Capabilities(dtypes=exported.DTYPES, reduction="any", traced_t=True)
DECAY = {"weight_decay": 0.1}
# name: (dtype, layer axes, hyperparameters)
GRAPHS: dict[str, tuple[str, tuple[int, ...] | None, dict[str, Any]]] = {
    "defaults": ("float32", None, {}),
    "double": ("float64", None, {}),
    "half": ("float16", None, {"eps": 1e-6}),
    "stack": ("float32", (1,), {}),
    "every coordinate": ("float32", (), {}),
    "coupled ascent": ("float32", None, {**DECAY, "maximize": True}),
    "decoupled": ("float64", None, {**DECAY, "decoupled_weight_decay": True}),
    "fourth power": ("float64", None, {"cos_power": 4}),
    "Adam": ("float32", None, {"cos_power": 0, "tau": 0.0, "eps_inside_sqrt": False}),
}


@cache
def session(shape: tuple[int, ...], dtype: str = "float32", **options: Any) -> Any:
    return onnxruntime.InferenceSession(exported.export_step(shape, dtype, **options).SerializeToString())


def run(case: Case) -> tuple[list[np.ndarray], list[LayerState]]:
    """One step of the case's only layer, through the graph for its shape, dtype and switches."""
    (layer,) = case.layers
    switches = {x: case.hp[x] for x in ("decoupled_weight_decay", "maximize", "cos_power", "eps_inside_sqrt")}
    graph = session(
        layer.param.shape, case.dtype, layer_axes=layer.axes, weight_decay=case.hp["weight_decay"] != 0, **switches
    )
    given = {"param": layer.param, "grad": layer.grad, "m": layer.m, "v": layer.v, "t": np.asarray(case.t)} | case.hp
    param, *state = graph.run(OUTPUTS, {x.name: np.asarray(given[x.name]) for x in graph.get_inputs()})
    return [param], [LayerState(*state)]


@pytest.fixture(scope="module")
def make_case(layers: SimpleNamespace) -> Callable[..., Case]:
    def made(dtype: str, axes: tuple[int, ...] | None, t: int, hp: dict[str, Any]) -> Case:
        param, grad = layers.normal((5, 3), dtype), layers.normal((5, 3), dtype, seed=1)
        m, v = layers.state(param) if t else (np.zeros_like(x) for x in layers.state(param))
        return Case(dtype, (LayerCase(param, grad, m, v, axes),), t).with_hp(**hp)

    return made


@pytest.mark.parametrize("name", GRAPHS)
def test_within_the_bound(make_case: Callable[..., Case], name: str) -> None:
    """A first step, one within a run, and the one after it, whose state is what the graph returned."""
    dtype, axes, hp = GRAPHS[name]
    for t in (0, 99):
        case = make_case(dtype, axes, t, hp)
        for count in (t, t + 1):
            params, states = run(case)
            assert int(states[0].t) == count + 1
            verdict = judge(case, params, states, CLAIMS)
            assert verdict.conforms, (verdict.parted_at, verdict.scores[verdict.parted_at])
            following = LayerCase(params[0], case.layers[0].grad, states[0].m, states[0].v, axes)
            case = Case(dtype, (following,), count + 1).with_hp(**hp)


def test_the_judge_would_notice(make_case: Callable[..., Case]) -> None:
    case = make_case("float64", None, 9, {})
    assert judge(case, *run(case), CLAIMS).conforms
    assert not judge(case, *run(case.with_hp(lr=1e-3 * (1 + 1e-5))), CLAIMS).conforms


@given(data=st.data())
def test_numbers_are_inputs(make_case: Callable[..., Case], data: st.DataObject) -> None:
    """One graph serves all hyperparameters and step counts."""
    share = st.floats(0, 0.9999)
    hp = {name: data.draw(share, name) for name in ("beta1", "beta2", "tau")}
    hp |= {"lr": data.draw(st.floats(0, 1), "lr"), "eps": 10.0 ** data.draw(st.integers(-30, 0), "log eps")}
    case = make_case("float32", None, data.draw(st.integers(0, 10**6), "t"), hp)
    verdict = judge(case, *run(case), CLAIMS)
    assert verdict.conforms, verdict


@pytest.mark.parametrize("shape", [(), (0, 3), (5, 3)], ids=str)
@pytest.mark.parametrize("dtype", exported.DTYPES)
def test_inputs_and_outputs(dtype: str, shape: tuple[int, ...]) -> None:
    """As `export_step` documents them; in opset 21; a model that ONNX's own checker accepts."""
    model = exported.export_step(shape, dtype, weight_decay=True)
    onnx.checker.check_model(model, full_check=True)
    assert [(x.domain, x.version) for x in model.opset_import] == [("", 21)]
    compute = "float64" if dtype == "float64" else "float32"
    arrays = {"param": dtype, "grad": dtype, "m": compute, "v": compute}
    numbers = dict.fromkeys(("lr", "beta1", "beta2", "eps", "tau", "weight_decay"), "float64")
    expected = {name: (kind, shape) for name, kind in arrays.items()} | {"t": ("int64", ())}
    assert described(model.graph.input) == expected | {name: (kind, ()) for name, kind in numbers.items()}
    assert described(model.graph.output) == {f"new_{x}": expected[x] for x in ("param", "m", "v", "t")}
    assert all(f"``{name}``" in exported.export_step.__doc__ for name in OUTPUTS)


def described(values: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    found = {}
    for x in values:
        tensor = x.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        found[x.name] = (str(dtype), tuple(n.dim_value for n in tensor.shape.dim))
    return found


def test_weight_decay_is_an_input_only_where_it_is_asked_for() -> None:
    assert "weight_decay" not in described(exported.export_step((3,)).graph.input)


def test_a_model_says_what_is_fixed_in_it() -> None:
    text = exported.export_step((2, 3), layer_axes=(1,), cos_power=4, maximize=True).doc_string
    assert "layer_axes=(1,)" in text
    assert "maximize=True" in text
    assert "cos_power=4.0" in text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shape": 3}, ValueError, "shape must be .*, got 3"),
        ({"shape": (3, None)}, ValueError, r"shape must be .*, got \(3, None\)"),
        ({"shape": (-1,)}, ValueError, r"shape must be .*, got \(-1,\)"),
        ({"dtype": "bfloat16"}, ValueError, "dtype must be one of float16, float32, float64, got 'bfloat16'"),
        ({"layer_axes": (2,)}, ValueError, r"layer_axes must be .*, got \(2,\)"),
        ({"weight_decay": 0.1}, TypeError, "weight_decay must be True or False, .*, got 0.1"),
        ({"decoupled_weight_decay": True}, ValueError, "weight_decay must be True with decoupled_weight_decay=True"),
        ({"maximize": 1}, TypeError, "maximize must be True or False, got 1"),
        ({"cos_power": -1}, ValueError, "cos_power must be finite and ≥ 0, got -1"),
    ],
    ids=str,
)
def test_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        exported.export_step(**({"shape": (3, 2)} | arguments))


def test_ndonnx_is_imported_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, setadam_core.onnx; print(*{'ndonnx', 'onnx', 'onnxruntime'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
    monkeypatch.setitem(sys.modules, "ndonnx", None)
    with pytest.raises(ImportError, match=r"ndonnx.*pip install"):
        exported.export_step((3,))


@pytest.mark.parametrize("backend", ["spec:ndonnx", "onnxruntime"])
def test_the_kit_judges_it(backend: str) -> None:
    found = check_conformance(backend, properties=["one-step", "nan-and-infinity", "empty-layers", "determinism"])
    assert all(cell.status == "pass" for cell in found.cells)
