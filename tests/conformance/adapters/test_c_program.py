"""examples/c: it compiles without a warning, is short, and conforms."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from setadam_conformance.adapters.command import CommandAdapter, RefusedError
from setadam_conformance.cases.case import DEFAULTS
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import OPTIONS, LayerState

SOURCE = Path(__file__).parents[3] / "examples/c/setadam.c"
COMPILER = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    target = tmp_path_factory.mktemp("c") / "setadam"
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
    subprocess.run([COMPILER, *flags, str(SOURCE), "-o", str(target), "-lm"], check=True)
    with CommandAdapter(str(target)) as adapter:
        yield adapter


def test_is_short():
    assert len(SOURCE.read_text(encoding="utf-8").splitlines()) < 200


def test_claims(program):
    assert program.name == "cmd:setadam.c"
    assert program.capabilities.options == OPTIONS - {"layer_axes", "complex"}
    assert program.capabilities.reduction == "pairwise"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_conforms(program, dtype, sample_cases, judge_cases):
    cases = sample_cases(dtype, program.capabilities.options, 300)
    violations, scores = judge_cases(program, cases)
    assert violations == 0
    assert all(score.judged > 10_000 and 0 < score.ratio <= 1 for score in scores.values())


def test_conforms_over_the_range_of_float64(program, sample_cases, judge_cases):
    """γ is scale-free: Σv² of gradients of 1e±140 is 0 or infinite in float64."""
    cases = sample_cases("float64", program.capabilities.options, 100, 1, (-140, 140))
    violations, scores = judge_cases(program, cases)
    assert violations == 0
    assert scores["param"].judged > 2_000


def test_sums_a_long_layer_as_claimed(program, judge_cases, sample_cases):
    case = next(sample_cases("float64", frozenset(), 1))
    rng = np.random.default_rng(3)
    x = rng.normal(size=2**16)
    layer = type(case.layers[0])(x, x[::-1].copy(), x * 0.1, x * x)
    long = type(case)("float64", (layer,), 5)
    assert judge_cases(program, [long])[0] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_affects_only_its_own_layer(program, bad, dtype):
    x = np.array([1, 2, 3], dtype)
    grad, zero = x.copy(), np.zeros(3, dtype)
    grad[1] = bad
    (poisoned, clean), states = program.step([x, x], [grad, x], [LayerState(zero, zero, 0)] * 2, DEFAULTS, [None, None])
    assert np.all(np.isnan(poisoned))
    assert np.all(np.isfinite(clean))
    assert np.array_equal(states[0].m[[0, 2]], states[1].m[[0, 2]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": -0.1}, "lr must be a number from 0 to below 3.40282e+38, got -0.1"),
        ({"eps": 0.0}, "eps must be a number from 1.17549e-38"),
        ({"eps": 1e-40}, "eps must be a number from 1.17549e-38"),
        ({"beta1": 1.0}, "beta1 must be a number from 0 to below 1, got 1"),
        ({"beta2": float("nan")}, "beta2 must be a number"),
        ({"tau": 1}, "tau must be a number"),
        ({"weight_decay": float("inf")}, "weight_decay must be a number"),
        ({"cos_power": -1}, "cos_power must be a number"),
        ({"lr": None}, "lr must be a number"),
        ({"maximize": 1}, "maximize must be true or false"),
    ],
)
def test_refuses_settings(program, change, words):
    x = np.ones(3, np.float32)
    with pytest.raises(RefusedError, match="ValueError: ") as error:
        program.step([x], [x], [LayerState(x, x, 0)], {**DEFAULTS, **change}, [None])
    assert words in str(error.value)


def test_refuses_what_it_does_not_support(program):
    x = np.ones((3, 2), np.float32)
    state = LayerState(x, x, 0)
    with pytest.raises(RefusedError, match="axes"):
        program.step([x], [x], [state], DEFAULTS, [(0,)])
    with pytest.raises(RefusedError, match="t must be"):
        program.step([x], [x], [state._replace(t=-1)], DEFAULTS, [None])
    z = x[:, 0] + 1j * x[:, 1]
    with pytest.raises(RefusedError, match="complex"):
        program.step([z], [z], [state], DEFAULTS, [None])
    half = x.astype(np.float16)
    with pytest.raises(RefusedError, match="dtype must be float32 or float64"):
        program.step([half], [half], [state], DEFAULTS, [None])
    assert program.step([x], [x], [state], DEFAULTS, [None])[1][0].t == 1  # and goes on


LONG = ("large-layer", "recorded-training")  # as text, 2²⁰ coordinates or 60 steps of a model take seconds


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param(tuple(name for name in PROPERTIES if name not in LONG), id="short"),
        pytest.param(LONG, id="long", marks=pytest.mark.heavy),
    ],
)
def test_satisfies_every_property_of_the_kit(program, verdicts, properties):
    """What `run --backend cmd:./setadam` would say."""
    cells = verdicts(program, max_examples=2, properties=properties)
    assert cells
    assert {name: cell.failure or cell.reason for name, cell in cells.items() if cell.status != "pass"} == {}
