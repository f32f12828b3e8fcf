"""The diagnosis: the trace, what separates, the number and the fault that explain it, and how it is shown."""

import io
import json
import shutil
import subprocess
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from setadam_conformance.adapters.command import CommandAdapter, request_lines
from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.cases.case import DEFAULTS, Case, LayerCase, case_from_json, case_to_json, dtype_of, real_view
from setadam_conformance.cases.claimed import as_claimed
from setadam_conformance.cases.dimensions import plainest
from setadam_conformance.cases.rows import case_of
from setadam_conformance.cli import main
from setadam_conformance.diagnosis import diagnose
from setadam_conformance.diagnosis.contrast import contrast
from setadam_conformance.diagnosis.failures import diagnosed, rebuilt
from setadam_conformance.diagnosis.simplest import simplest
from setadam_conformance.diagnosis.suspects import suspects
from setadam_conformance.diagnosis.tracing import SHOWN, trace_of
from setadam_conformance.diagnosis.trying import Budget, attempt
from setadam_conformance.judging.bench import Bench
from setadam_conformance.reporting import from_json, to_json
from setadam_conformance.reporting.failures import by_cause, lines_of, print_failures, trace_lines
from setadam_conformance.running.backends import Source
from setadam_conformance.running.results import Backend, Cell, Run
from setadam_conformance.running.snippet import snippet
from setadam_conformance.teeth.faults import FAULTS
from setadam_conformance.teeth.reference import Reference
from setadam_core import Hyperparameters, State, trace

DTYPE = "float32"


COMPILER = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)


class LastOfW(Reference):
    """τ times the last w is subtracted: a slip of an index that no seeded fault has."""

    name = "slip"

    def least(self, c, w):
        return w[:, -1:]


class OverD(Reference):
    """γ = (Σv)²/(d²Σv²)."""

    name = "over-d"

    def gamma(self, c, v):
        return Reference.gamma(self, c, v) / np.float32(c.d)


class SquaredMean(Reference):
    """v from the first moment."""

    name = "squared-m"

    def moment2(self, c, g):
        return Reference.moment2(self, c, self.moment1(c, g))


def case(size=5, t=9, seed=0, dtype=DTYPE, **hp):
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=size) for _ in range(4)]
    theta, g = (np.asarray(a, dtype_of(dtype)) for a in x[:2])
    compute = np.float64 if dtype == "float64" else np.float32
    layer = LayerCase(theta, g, x[2].astype(compute), (x[3] ** 2).astype(compute))
    return Case(dtype, (layer,), t, {**DEFAULTS, **hp})


def step_of(adapter, example):
    return Bench(adapter, example.dtype).step(example)


def failed(adapter, example, prop="one-step"):
    """A failing cell with this example."""
    from setadam_conformance.running.results import Failure

    cell = Cell(prop, adapter.name, example.dtype, status="fail")
    cell.failure = Failure("one-step failed", case_to_json(example))
    return cell


def lines_for(adapter, *examples, prop="one-step"):
    return diagnosed(adapter, [failed(adapter, example, prop) for example in examples])[0].lines


def by_symbol(found):
    return {row.symbol: row for row in found.rows}


# The trace.


@pytest.mark.parametrize(
    "hp",
    [
        {},
        {"eps_inside_sqrt": False, "cos_power": 3.0},
        {"weight_decay": 0.1, "maximize": True},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "tau": 0.0},
    ],
)
def test_the_trace_has_the_numbers_of_the_specification(hp):
    example = case(size=SHOWN, dtype="float64", **hp)
    (layer,) = example.layers
    expected = trace(layer.param, layer.grad, State(layer.m, layer.v, example.t), Hyperparameters(**example.hp))
    found = trace_of(example, step_of(NumPySpec(), example), NumPySpec.capabilities)
    rows = by_symbol(found)
    for symbol, value in (
        ("m", expected.m),
        ("v", expected.v),
        ("γ", expected.gamma),
        ("w", expected.w),
        ("min w", expected.w_min),
        ("w̃", expected.w_shifted),
        ("θ", expected.param),
    ):
        np.testing.assert_allclose(rows[symbol].expected, np.ravel(value), rtol=1e-12)
    np.testing.assert_allclose(rows["w̃"].got, expected.w_shifted, rtol=1e-9)
    np.testing.assert_allclose(rows["v̂"].expected, expected.v_scaled / (1 - 0.999**10), rtol=1e-12)
    assert not any(row.parts for row in found.rows)
    assert all(0 <= rows[symbol].ratio <= 1 for symbol in ("m", "v", "θ"))


def test_the_trace_marks_the_quantity_that_parts_and_implies_the_wrong_denominator():
    example = case(size=SHOWN, lr=0.1)
    (layer,) = example.layers
    answer = step_of(FAULTS["tau-missing"].adapter(), example)
    rows = by_symbol(trace_of(example, answer, Reference.capabilities))
    assert [symbol for symbol, row in rows.items() if row.parts] == ["θ"]
    assert rows["θ"].ratio > 1
    np.testing.assert_allclose(rows["w̃"].got, rows["w"].expected, rtol=1e-4)  # w̃ = w, as nothing is subtracted
    assert rows["θ"].got == answer.params[0].tolist()
    assert rows["old θ"].expected == layer.param.tolist()


def test_the_trace_of_a_large_layer_has_its_worst_coordinate_and_the_extremes_of_w():
    example = case(size=500)
    answer = step_of(NumPySpec(), example)
    answer.params[0][321] += 1
    found = trace_of(example, answer, NumPySpec.capabilities)
    w = trace(*(getattr(example.layers[0], n) for n in ("param", "grad")),
              State(example.layers[0].m, example.layers[0].v, 9), Hyperparameters()).w  # fmt: skip
    assert found.coordinates == sorted([[321], [int(np.argmin(w))], [int(np.argmax(w))]])


def test_nothing_is_implied_where_theta_does_not_move():
    example = case(size=2, lr=0.0)
    rows = by_symbol(trace_of(example, step_of(NumPySpec(), example), NumPySpec.capabilities))
    assert rows["w̃"].got == []


@pytest.mark.parametrize("changes", [{}, {"weight_decay": 0.1, "decoupled_weight_decay": True, "cos_power": 3.0}])
def test_a_trace_fits_in_80_columns_and_shows_that_the_numbers_differ(changes):
    for adapter in (FAULTS["tau-max"].adapter(), FAULTS["theta-off-by-1e-6"].adapter()):
        example = case(size=40, lr=0.1, **changes)
        lines = trace_lines(trace_of(example, step_of(adapter, example), Reference.capabilities))
        assert max(map(cell_len, lines)) <= 80
        (marked,) = [i for i, line in enumerate(lines) if "-->" in line]
        assert lines[marked].split()[2:5] != lines[marked - 1].split()[-3:]


# What separates, and where to look.


@pytest.mark.parametrize(
    ("name", "stage", "dimension", "right", "wrong"),
    [
        ("tau-missing", "param", "tau", "0", "0.5"),
        ("gamma-cosine", "param", "cos_power", "0", "2"),
        ("bias-2-missing", "param", "t", "beyond 2²⁴", "0"),
        ("complex-modulus", "v", "numbers", "real", "complex"),
        ("decay-ignored", "m", "decay", "none", "coupled"),
        ("layer-axes-ignored", "param", "axes", "None", "()"),
        ("strides-ignored", "m", "order", "C", "Fortran"),
        ("maximize-ignored", "m", "direction", "descend", "ascend"),
    ],
)
def test_the_dimension_that_a_fault_depends_on_separates(name, stage, dimension, right, wrong):
    bench = {dtype: Bench(FAULTS[name].adapter(), dtype) for dtype in ("float32", "float64")}
    found = contrast(bench, Reference.capabilities, stage, plainest(), Budget(500), None)
    if name == "strides-ignored":  # a vector has no order but gaps
        found = contrast(bench, Reference.capabilities, stage, {**plainest(), "shape": "matrix"}, Budget(500), None)
    assert dimension in found.separating
    assert right in found.right(dimension)
    assert wrong in found.wrong(dimension)
    assert found.complete


def test_nothing_separates_in_a_right_backend():
    bench = {DTYPE: Bench(NumPySpec(), DTYPE)}
    found = contrast(bench, replace(NumPySpec.capabilities, dtypes=(DTYPE,)), "param", plainest(), Budget(500), None)
    assert (found.base_is_wrong, found.separating) == (False, [])
    assert sum(map(len, found.outcomes.values())) > 70


def test_answers_in_another_order_are_said_to_be():
    class Sorted(Reference):
        name = "sorted"

        def moment2(self, c, g):
            return np.sort(Reference.moment2(self, c, g), axis=1)

    said = "this would explain them: the numbers of the new v are the formula's in another order"
    assert said in lines_for(Sorted(), case(12, lr=0.1))
    assert said not in lines_for(SquaredMean(), case(12, lr=0.1))


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("tau-mean", "T, w̃ = w - τ min w"),
        ("gamma-cosine", "S, γ"),
        ("bias-1-missing", "1-β₁ᵗ"),
        ("bias-2-missing", "1-β₂ᵗ"),
        ("complex-conjugated", "complex numbers"),
        ("decay-without-lr", "weight decay"),
        ("tau-global", "one layer leaves to the next"),
        ("eps-tenfold", "E, w"),
    ],
)
def test_where_to_look(name, where):
    adapter = FAULTS[name].adapter()
    rows = [plainest(), {**plainest(), "decay": "decoupled"}, {**plainest(), "numbers": "complex"},
            {**plainest(), "layers": "2 or 3"}, {**plainest(), "eps": "large"}]  # fmt: skip
    wrong = [x for row in rows if attempt(Bench(adapter, DTYPE), x := case_of(row, 1), Budget(1)).wrong]
    looked = [line for line in lines_for(adapter, *wrong) if line.startswith("look at: ")]
    assert len(looked) == 1
    assert where in looked[0]


def test_a_small_budget_stops_and_says_so():
    adapter = FAULTS["tau-missing"].adapter()
    adapter.capabilities = replace(Reference.capabilities, compiles=True)
    steps = []
    original = adapter.step
    adapter.step = lambda *args: steps.append(1) or original(*args)
    lines = lines_for(adapter, case(lr=0.1))
    assert any("only a part of the table of dimensions was tried" in line for line in lines)
    assert len(steps) < 120


# One number, or weights, that explain it.


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        (LastOfW(), "= τ times the last w is subtracted from every w"),
        (OverD(), "= 1/d times"),
        (SquaredMean(), "0.001 m², not 0.999 v + 0.001 g²"),
        (FAULTS["gamma-d-plus-1"].adapter(), "= d/(d+1) times"),
        (FAULTS["tau-missing"].adapter(), "0 is subtracted from every w"),
        (FAULTS["sign"].adapter(), "the whole update is -1"),
        (FAULTS["eps-tenfold"].adapter(), "= 10 ε stands in the place of ε"),
        (FAULTS["decay-without-lr"].adapter(), "= 1-λ times θ"),
        (FAULTS["m-without-1-minus-beta"].adapter(), "the new m is 0.9 m + 1 g, not 0.9 m + 0.1 g"),
    ],
)
def test_the_number_that_explains_the_answers_is_named(adapter, said):
    examples = [
        replace(x, hp={**x.hp, "eps": 1.0}) if adapter.name == "fault:eps-tenfold" else x
        for x in (case(12, seed=seed, lr=0.1) for seed in range(3))
    ]
    if adapter.name == "fault:decay-without-lr":
        examples = [x.with_hp(weight_decay=0.3, decoupled_weight_decay=True) for x in examples]
    assert any(said in line for line in lines_for(adapter, *examples))


def test_no_number_is_named_where_none_explains():
    lines = lines_for(FAULTS["update-of-gradient"].adapter(), *(case(12, seed=seed, lr=0.1) for seed in range(3)))
    assert not any(line.startswith("this would explain") for line in lines)


# Suspects.

SUSPECTED = [
    "tau-max", "tau-mean", "eps-outside", "bias-2-missing", "gamma-of-old-v", "v-stale", "m-nesterov", "betas-swapped",
    "decay-without-lr", "update-of-gradient", "layer-axes-ignored", "complex-parts-apart", "tail-not-in-sum",
]  # fmt: skip


@pytest.mark.parametrize("name", SUSPECTED)
def test_a_seeded_fault_is_its_own_suspect(name, verdicts):
    adapter = FAULTS[name].adapter()
    cells = [c for c in verdicts(adapter, properties=("one-step", "circumstances")).values() if c.failure]
    lines = [line for d in diagnosed(adapter, cells) for line in d.lines if line.startswith("the answers are as if")]
    assert any(FAULTS[name].what in line for line in lines)


@pytest.mark.parametrize("adapter", [LastOfW(), OverD(), SquaredMean()])
def test_another_fault_has_no_suspects(adapter):
    assert not any("as if" in line for line in lines_for(adapter, case(12, lr=0.1)))


def test_a_right_backend_has_no_suspects():
    tried = [attempt(Bench(NumPySpec(), DTYPE), case(seed=seed), Budget(1)) for seed in range(3)]
    assert suspects(tried, NumPySpec.capabilities) == []


# The example that is shown.


def test_the_simplest_example_has_three_plain_coordinates_and_fails_at_the_same_stage():
    bench = Bench(FAULTS["tau-max"].adapter(), DTYPE)
    long = attempt(bench, case(300, t=10**5, lr=0.01, beta2=0.99), Budget(1))
    found = simplest(bench, long, "param", Budget(300))
    assert list(found.wrong) == ["param"]
    assert found.case.hp == DEFAULTS
    (layer,) = found.case.layers
    assert layer.param.shape == (3,)
    assert not layer.param.any()
    assert set(np.abs(layer.grad).tolist()) <= {1.0, 0.75, 0.375}


def test_the_simplest_example_keeps_what_a_backend_fixes():
    adapter = FAULTS["tau-max"].adapter()
    adapter.capabilities = replace(Reference.capabilities, fixed={"tau": 0.25})
    bench = Bench(adapter, DTYPE)
    long = attempt(bench, case(300, t=10**5, lr=0.01, tau=0.25), Budget(1))
    assert simplest(bench, long, "param", Budget(300)).case.hp == {**DEFAULTS, "tau": 0.25}


def test_a_rule_that_the_suspected_fault_breaks_too_has_the_same_cause(verdicts):
    adapter = FAULTS["eps-outside"].adapter()
    cells = [c for c in verdicts(adapter, properties=("one-step", "power-of-two-scaling")).values() if c.failure]
    assert len(cells) == 2
    first, second = diagnosed(adapter, cells)
    assert first == second


def test_a_rule_of_the_interface_has_a_cause_of_its_own(verdicts):
    adapter = FAULTS["accepts-bad-lr"].adapter()
    (cell,) = (c for c in verdicts(adapter, properties=("hyperparameter-errors",)).values() if c.failure)
    (found,) = diagnosed(adapter, [cell])
    assert found.cause == "property hyperparameter-errors"
    assert cell.failure.message in found.lines
    assert found.trace is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_snippet_has_the_same_bits_and_prints_the_trace(dtype):
    example = case(3, dtype=dtype, lr=0.1)
    (layer,) = example.layers
    layer.grad[0], layer.v[1] = -0.0, np.nextafter(np.float32(0), np.float32(1))
    code = snippet(example, Source("spec:numpy", "numpy", ""), "one-step")
    scope, out = {}, io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "snippet", "exec"), scope)
    (again,) = scope["case"].layers
    for name in ("param", "grad", "m", "v"):
        a, b = getattr(layer, name), getattr(again, name)
        assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())
    assert (scope["case"].t, scope["case"].hp) == (example.t, example.hp)
    found = trace_of(example, step_of(NumPySpec(), example), NumPySpec.capabilities)
    assert out.getvalue().splitlines() == trace_lines(found)


def test_a_snippet_holds_any_shape_and_no_large_example():
    complex_layer = case_of({**plainest(), "numbers": "complex", "shape": "matrix", "special": "g NaN"}, 3)
    for example in (
        complex_layer,
        case_of({**plainest(), "shape": "empty"}, 3),
        case_of({**plainest(), "shape": "()"}, 3),
    ):
        scope = {}
        code = snippet(example, Source("spec:numpy", "numpy", ""), "one-step").partition("adapter =")[0]
        exec(compile(code, "snippet", "exec"), scope)
        for a, b in zip(example.layers, scope["case"].layers, strict=True):
            assert a.param.shape == b.param.shape
            np.testing.assert_array_equal(real_view(a.grad), real_view(b.grad))
    assert len(snippet(case(3000), Source("x", "y", ""), "one-step")) < 1000


def test_the_request_is_what_a_program_gets():
    example = case(2)
    start, step = (json.loads(line) for line in request_lines(example).splitlines())
    assert start["cmd"] == "start"
    assert (step["dtype"], step["t"]) == (DTYPE, 9)
    assert [float.fromhex(x) for x in step["layers"][0]["grad"]] == example.layers[0].grad.tolist()


# How it is shown.


@pytest.fixture(scope="module")
def broken():
    """A run of a backend with one wrong line, in two dtypes, and three protocol errors."""
    from setadam_conformance.properties import PROPERTIES
    from setadam_conformance.running.plan import PROFILES, plan
    from setadam_conformance.running.runner import check

    adapter = LastOfW()
    source = Source(adapter.name, adapter.framework, "none:none")
    names, dtypes = ("one-step", "circumstances", "trajectory", "scale-free"), ("float32", "float64")
    plans = plan({source: adapter.capabilities}, profile=PROFILES["quick"], properties=names, dtypes=dtypes)
    cells = [check(PROPERTIES[cell.property], adapter, cell) for cell in plans]
    bad = [cell for cell in cells if cell.failure]
    for cell, found in zip(bad, diagnosed(adapter, bad), strict=True):
        cell.failure.diagnosis = found
    reasons = ("it gave 0x1.8p-3\nno JSON", "it is closed, as it gave 0x1p+0", "it is closed, as it gave 0x1p+0")
    errors = [Cell(f"p{i}", "other", DTYPE, status="error", reason=said) for i, said in enumerate(reasons)]
    backends = [Backend(adapter.name, adapter.framework), Backend("other", "other")]
    return Run("quick", 0, (1, 1), "2030-01-01T00:00:00+00:00", 1.0, {}, backends, [*cells, *errors], exit_code=1)


def test_failures_of_one_cause_are_one_block_that_fits_on_a_screen(broken):
    groups = by_cause(cell for cell in broken.cells if cell.status != "pass")
    assert [len(group) for group in groups][1:] == [3]
    assert len(groups[0]) >= 5
    lines = list(lines_of(groups[0]))
    end = next(i for i, line in enumerate(lines) if line.startswith("# "))  # the code
    assert end < 40
    assert all(cell_len(line) <= 100 for line in lines[:end])
    text = "\n".join(lines[:end])
    for said in ("τ times the last w", "look at: T", "right only with τ = 0", "one-step", "float64", "min w", "-->"):
        assert said in text


def test_the_terminal_says_each_error_once(broken):
    console = Console(file=io.StringIO(), width=80)
    print_failures(broken, console)
    text = console.file.getvalue()
    assert text.count("no JSON") == 1
    assert "p0, p1, p2 (float32)" in text
    assert text.count("θ is wrong, m and v are right") == 1
    assert "bits" not in text  # no hexadecimal code


def test_a_diagnosis_is_in_the_report(broken):
    schema = json.loads(files("setadam_conformance.reporting").joinpath("report.schema.json").read_text("utf-8"))
    data = json.loads(json.dumps(to_json(broken), allow_nan=False))
    jsonschema.validate(data, schema)
    again = from_json(data)
    assert to_json(again) == to_json(broken)
    assert next(c for c in again.cells if c.failure).failure.diagnosis.trace.rows[0].symbol == "old θ"


def test_replay_prints_the_trace_of_a_failing_and_of_a_passing_example(tmp_path, capsys, broken):
    cell = next(c for c in broken.cells if c.failure and c.property == "one-step")
    path = tmp_path / "repro.json"
    path.write_text(json.dumps({"property": "one-step", "backend": "slip", "case": cell.failure.case}))
    assert main(["replay", str(path), "--backend", "spec:numpy"]) == 0
    out = capsys.readouterr().out
    assert "w̃     = w - τ min w" in out
    assert "passes one-step" in out
    assert "-->" not in out
    assert main(["replay", str(path), "--backend", f"{__name__}:LastOfW"]) == 1
    out = capsys.readouterr().out
    assert "-->" in out
    assert "still fails one-step" in out


def test_an_example_from_the_table_replays_with_its_order_in_memory():
    example = case_of({**plainest(), "shape": "matrix", "order": "Fortran"}, 1)
    read = case_from_json(json.loads(json.dumps(case_to_json(example))))
    assert read.layers[0].param.flags.c_contiguous
    again = rebuilt(read).layers[0]
    assert not again.param.flags.c_contiguous
    assert again.param.tobytes("F") == example.layers[0].param.tobytes("F")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_example_with_narrow_moments_is_read_back(dtype):
    example = as_claimed(case(dtype=dtype), replace(Reference.capabilities, moments="parameter"))
    (again,) = case_from_json(json.loads(json.dumps(case_to_json(example)))).layers
    for name in ("param", "grad", "m", "v"):
        a, b = getattr(example.layers[0], name), getattr(again, name)
        assert (str(a.dtype), a.tobytes()) == (dtype, b.tobytes())
        assert a.dtype == b.dtype


def test_a_step_that_raises_is_diagnosed():
    class Raises(NumPySpec):
        def step(self, params, grads, states, hp, layer_axes):
            if len(params) > 1:
                raise RuntimeError("no such kernel")
            return super().step(params, grads, states, hp, layer_axes)

    (found,) = diagnosed(Raises(), [failed(Raises(), case_of({**plainest(), "layers": "2 or 3"}, 1))])
    assert found.lines[:2] == ["the call failed", "raised RuntimeError: no such kernel"]
    assert any("layers in the call" in line for line in found.lines)


def test_an_error_in_the_diagnosis_is_said_and_loses_no_failure():
    source = Source("gone", "gone", "no.such.module:Adapter")
    (found,) = diagnose(source, "cpu", [failed(NumPySpec(), case())])
    assert found.lines[0] == "one-step failed"
    assert found.lines[1].startswith("there is no diagnosis: ModuleNotFoundError")


@pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("w[i] - hp->tau * least", "w[i] - hp->tau * w[n - 1]", "τ times the last w is subtracted from every w"),
        ("gamma * v[i] / bc2", "gamma * v[i]", "the answers are as if: v is not corrected"),
        ("(s1 / (double)n) * (s1 /", "(s1 / (double)n) / n * (s1 /", "= 1/d times"),
        ("1 - hp->beta1) * g, single", "1 - hp->beta2) * g, single", "the new m is 0.9 m + 0.001 g, not 0.9 m + 0.1 g"),
    ],
)
def test_a_wrong_line_of_a_program_is_on_the_first_screen(tmp_path, right, wrong, said):
    text = (Path(__file__).parents[2] / "examples/c/setadam.c").read_text(encoding="utf-8")
    assert text.count(right) == 1
    (tmp_path / "wrong.c").write_text(text.replace(right, wrong), encoding="utf-8")
    program = str(tmp_path / "wrong")
    subprocess.run([COMPILER, "-O2", "-ffp-contract=off", f"{program}.c", "-o", program, "-lm"], check=True)
    with CommandAdapter(program) as adapter:
        cell = failed(adapter, case(12, lr=0.1))
        (cell.failure.diagnosis,) = diagnosed(adapter, [cell])
    screen = list(lines_of([cell]))[:40]
    assert said in " ".join("\n".join(screen).split())
    assert any("-->" in line for line in screen)
    reply = subprocess.run([program], input=cell.failure.diagnosis.request + "\n", capture_output=True, text=True)
    answer = json.loads(reply.stdout.splitlines()[1])["layers"][0]
    theta = by_symbol(cell.failure.diagnosis.trace)["θ"]
    assert [float.fromhex(x) for x in answer["param"]] == theta.got
