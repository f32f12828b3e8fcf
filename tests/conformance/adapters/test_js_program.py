"""examples/js: the step of docs/play.md as a program. It is short, and conforms."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from setadam_conformance.adapters.command import CommandAdapter, RefusedError
from setadam_conformance.cases.case import DEFAULTS
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import OPTIONS, LayerState

ROOT = Path(__file__).parents[3]
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no node on this machine")


@pytest.fixture(scope="module")
def program():
    with CommandAdapter(shlex.join([NODE, str(ROOT / "examples/js/setadam.mjs")])) as adapter:
        yield adapter


def test_step_is_short():
    assert len((ROOT / "docs/_static/play/step.js").read_text(encoding="utf-8").splitlines()) < 120


def test_claims(program):
    assert program.name == "cmd:setadam.mjs"
    assert program.capabilities.options == OPTIONS - {"layer_axes"}
    assert program.capabilities.reduction == "pairwise"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_conforms(program, dtype, sample_cases, judge_cases):
    cases = sample_cases(dtype, program.capabilities.options - {"complex"}, 300)
    violations, scores = judge_cases(program, cases)
    assert violations == 0
    assert all(score.judged > 10_000 and 0 < score.ratio <= 1 for score in scores.values())


def test_conforms_over_the_range_of_float64(program, sample_cases, judge_cases):
    """γ is scale-free: Σv² of gradients of 1e±140 is 0 or infinite in float64."""
    cases = sample_cases("float64", program.capabilities.options - {"complex"}, 100, 1, (-140, 140))
    violations, scores = judge_cases(program, cases)
    assert violations == 0
    assert scores["param"].judged > 2_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": -0.1}, "lr must be from 0 to 3.402823"),
        ({"lr": 1e39}, "lr must be from 0 to 3.402823"),
        ({"eps": 0.0}, "eps must be from 1.17549"),
        ({"eps": 1e-40}, "eps must be from 1.17549"),
        ({"beta1": 1.0}, "beta1 must be in [0, 1), got 1"),
        ({"beta2": float("nan")}, "beta2 must be in [0, 1), got NaN"),
        ({"tau": 1}, "tau must be in [0, 1), got 1"),
        ({"weight_decay": float("inf")}, "weight_decay must be from 0 to"),
        ({"cos_power": -1}, "cos_power must be from 0 to"),
        ({"lr": None}, "lr must be from 0 to"),
        ({"maximize": 1}, "maximize must be true or false"),
    ],
)
def test_refuses_settings(program, change, words):
    x = np.ones(3, np.float32)
    with pytest.raises(RefusedError, match="RangeError: ") as error:
        program.step([x], [x], [LayerState(x, x, 0)], {**DEFAULTS, **change}, [None])
    assert words in str(error.value)


def test_refuses_what_it_does_not_support(program):
    x = np.ones((3, 2), np.float32)
    state = LayerState(x, x, 0)
    with pytest.raises(RefusedError, match="axes must be null"):
        program.step([x], [x], [state], DEFAULTS, [(0,)])
    with pytest.raises(RefusedError, match="t must be a whole number ≥ 0, got -1"):
        program.step([x], [x], [state._replace(t=-1)], DEFAULTS, [None])
    half = x.astype(np.float16)
    with pytest.raises(RefusedError, match="dtype must be float64 or float32, got float16"):
        program.step([half], [half], [state], DEFAULTS, [None])
    assert program.step([x], [x], [state], DEFAULTS, [None])[1][0].t == 1  # and goes on


LONG = ("large-layer", "recorded-training")  # as text, 2²⁰ coordinates or 60 steps of a model take seconds
SHORT = tuple(name for name in PROPERTIES if name not in LONG)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("properties", "options"),
    [
        pytest.param(SHORT, {"max_examples": 2}, id="short"),
        pytest.param(LONG, {"max_examples": 2}, id="long", marks=pytest.mark.heavy),
        pytest.param((), {"profile": "default"}, id="default", marks=pytest.mark.heavy),
    ],
)
def test_satisfies_every_property_of_the_kit(program, verdicts, dtype, properties, options):
    """What `run --backend cmd:"node examples/js/setadam.mjs"` would say."""
    cells = verdicts(program, dtype=dtype, properties=properties, **options)
    assert cells
    assert {name: cell.failure or cell.reason for name, cell in cells.items() if cell.status != "pass"} == {}
