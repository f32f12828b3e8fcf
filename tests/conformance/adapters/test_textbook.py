"""The adapter of a foreign class is short, complete and conforming; and where the printed formulas fail."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from setadam_conformance.cases.case import Case, fresh_layer
from setadam_conformance.protocol import Adapter

torch = pytest.importorskip("torch", reason="the textbook transcription is torch's")
FOLDER = Path(__file__).parents[3] / "examples/adapters"


@pytest.fixture(scope="module")
def textbook():
    """Imported as the command does with PYTHONPATH: (adapter's module, optimizer's module)."""
    sys.path.insert(0, str(FOLDER))
    try:
        return tuple(map(importlib.import_module, ("textbook_torch", "textbook_torch_optimizer")))
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture
def adapter(textbook):
    return textbook[0].TextbookTorch()


def test_is_an_adapter_in_under_forty_lines(adapter):
    assert isinstance(adapter, Adapter)
    assert len((FOLDER / "textbook_torch.py").read_text(encoding="utf-8").splitlines()) < 40
    with pytest.raises(RuntimeError, match="abacus"):
        type(adapter)("abacus")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_conforms(adapter, dtype, sample_cases, judge_cases):
    violations, scores = judge_cases(adapter, sample_cases(dtype, adapter.capabilities.options, 300))
    assert violations == 0
    assert all(score.judged > 10_000 and 0 < score.ratio <= 1 for score in scores.values())


def _first_step(dtype, exponent):
    """100 normally distributed gradients of size 10^exponent, from θ = 0 and zero moments."""
    grad = np.random.default_rng(0).normal(size=100) * 10.0**exponent
    return Case(dtype, (fresh_layer(np.zeros(100, dtype), grad.astype(dtype)),)).with_hp(eps=1e-16)


@pytest.mark.parametrize(
    ("dtype", "exponent", "conforms"),
    [
        ("float32", -16, False),
        ("float32", 0, True),
        ("float32", 12, False),
        ("float64", -90, False),
        ("float64", 0, True),
        ("float64", 90, False),
    ],
)
def test_gamma_as_printed_conforms_only_in_the_middle_of_the_range(
    adapter, textbook, dtype, exponent, conforms, judge_cases, monkeypatch
):
    case = _first_step(dtype, exponent)
    assert judge_cases(adapter, [case])[0] == 0
    monkeypatch.setattr(textbook[1], "_gamma", textbook[1].naive_gamma)
    assert judge_cases(adapter, [case])[0] == (not conforms)


def test_gamma_as_printed_is_nan_for_a_layer_of_zeros(adapter, textbook, judge_cases, monkeypatch):
    case = Case("float32", (fresh_layer(np.ones(5, np.float32), np.zeros(5, np.float32)),))
    assert judge_cases(adapter, [case])[0] == 0
    monkeypatch.setattr(textbook[1], "_gamma", textbook[1].naive_gamma)
    violations, scores = judge_cases(adapter, [case])
    assert violations == 1
    assert scores["param"].ratio == math.inf


@pytest.mark.parametrize(("dtype", "conforms"), [("float32", True), ("float64", False)])
def test_the_bias_correction_as_printed_conforms_only_in_float32(
    adapter, textbook, dtype, conforms, sample_cases, judge_cases, monkeypatch
):
    monkeypatch.setattr(textbook[1], "_one_minus_power", lambda beta, t: 1 - beta**t)
    cases = sample_cases(dtype, adapter.capabilities.options, 300)
    assert (judge_cases(adapter, cases)[0] == 0) is conforms


def test_trains_as_an_optimizer(textbook):
    p = torch.nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    optimizer = textbook[1].TextbookSETAdam([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(200)]
    assert losses[-1] < 1e-3 * losses[0]


@pytest.mark.parametrize("bad", [{"lr": -0.1}, {"eps": 0.0}, {"betas": (1.0, 0.9)}, {"tau": 1.0}, {"lr": math.nan}])
def test_refuses_settings(textbook, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        textbook[1].TextbookSETAdam([torch.nn.Parameter(torch.ones(2))], **bad)


def test_the_documentation_shows_the_adapter_as_it_is():
    page = (FOLDER.parents[1] / "docs/conformance.md").read_text(encoding="utf-8")
    assert f"```python\n{(FOLDER / 'textbook_torch.py').read_text(encoding='utf-8')}```" in page


def test_satisfies_every_property_of_the_kit(adapter, verdicts):
    """What `run --backend textbook_torch:TextbookTorch` would say."""
    cells = verdicts(adapter, max_examples=3)
    assert {name: cell.failure or cell.reason for name, cell in cells.items() if cell.status != "pass"} == {}


def test_contributing_shows_the_adapter_as_it_is():
    text = (FOLDER.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = (FOLDER / "textbook_torch.py").read_text(encoding="utf-8")
    assert code in "\n".join(line.removeprefix("   ") for line in text.splitlines())
