"""The demonstration prints the numbers of a step, and draws them."""

import math
import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from setadam_core import Hyperparameters, trace
from setadam_core.show import demo
from setadam_core.show.operations import stepsizes_by_operation


def columns(line: str) -> int:
    return sum(not unicodedata.combining(c) for c in line)


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[dict[str, list[float]], list[str]]:
    """The numbers of each line of the table by its symbol, and the lines of the drawing."""
    demo.main(args)
    heading, table, _, drawing = capsys.readouterr().out.rstrip("\n").split("\n\n")
    assert heading.startswith("Step 10 of a layer of 5 coordinates")
    first, *lines = table.splitlines()
    assert first.split() == list("12345")
    full = [line for line in lines if line[2:8].strip() not in ("γ", "min w")]
    assert {columns(line) for line in full} == {columns(first)}, "the columns are aligned"
    numbers = re.compile(r"-?\d[\d.]*(?:e[+-]\d+)?(?= |$)")
    return {line[2:8].strip(): [float(x) for x in numbers.findall(line[29:])] for line in lines}, drawing.splitlines()


def test_every_line_is_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is computed by the formula beside it, from the printed gradient on."""
    rows, _ = printed(capsys)
    g, d, t = np.array(rows["g"]), 5, 10
    m = 0.9 * demo.STATE.m + 0.1 * g
    v = 0.999 * demo.STATE.v + 0.001 * g**2
    gamma = v.sum() ** 2 / (d * (v**2).sum())
    w = np.sqrt(gamma * v / (1 - 0.999**t) + 1e-8)
    shifted = w - 0.5 * w.min()
    q = 1e-3 / (1 - 0.9**t) * m / shifted
    expected = {
        "g": g, "m": m, "v": v, "γ": [gamma], "γv": gamma * v, "w": w, "min w": [w.min()],
        "w̃": shifted, "1/w̃": 1 / shifted, "q": q, "θ": demo.PARAM - q,
    }  # fmt: skip
    assert list(rows) == list(expected)
    for symbol, values in expected.items():
        # printed to four digits, so within half a unit of the fourth
        np.testing.assert_allclose(rows[symbol], values, rtol=5.1e-4, err_msg=symbol)


def test_the_bars_are_on_one_logarithmic_axis(capsys: pytest.CaptureFixture[str]) -> None:
    _, (heading, *bars, axis) = printed(capsys)
    stages = stepsizes_by_operation(demo.PARAM, demo.GRAD, demo.STATE, Hyperparameters())
    logs = {name: np.log10(x) for name, x in stages.items()}
    low, high = min(x.min() for x in logs.values()), max(x.max() for x in logs.values())
    for line, (name, stepsizes) in zip(bars, stages.items(), strict=True):
        assert line.startswith(name)
        plain = "".join(c for c in line if not unicodedata.combining(c))
        bar, ratio = plain[24 : 24 + demo.AXIS_WIDTH], plain[24 + demo.AXIS_WIDTH :]
        for i, log in enumerate(logs[name], start=1):
            place = (log - low) / (high - low) * (demo.AXIS_WIDTH - 1)
            assert abs(bar.index(str(i)) - place) <= 0.5 + 1e-9
        assert float(ratio) == pytest.approx(stepsizes.max() / stepsizes.min(), abs=0.005)
    assert heading.split() == ["largest/smallest"]
    assert [float(x) for x in axis.split()] == pytest.approx([10**low, 10**high], rel=5.1e-4)


def test_stages_are_the_formulas() -> None:
    now = trace(demo.PARAM, demo.GRAD, demo.STATE, Hyperparameters(tau=0.3))
    v_hat = now.v / (1 - 0.999**10)
    stages = stepsizes_by_operation(demo.PARAM, demo.GRAD, demo.STATE, Hyperparameters(tau=0.3))
    expected = (1 / (np.sqrt(v_hat) + 1e-8), 1 / (np.sqrt(now.gamma * v_hat) + 1e-8), 1 / now.w, now.stepsize)
    assert len(stages) == len(demo.FORMULAS)
    for got, value in zip(stages.values(), expected, strict=True):
        # 1-βᵗ as it stands here cancels: ten roundings of 0.999 and one of 1, against 0.01 that is left
        np.testing.assert_allclose(got, value, rtol=1e-13)


def test_stages_of_a_stack_of_layers() -> None:
    stack = [np.stack([x, 3 * x]) for x in (demo.PARAM, demo.GRAD, demo.STATE.m, demo.STATE.v)]
    param, grad, m, v = stack
    hp = Hyperparameters()
    together = stepsizes_by_operation(param, grad, demo.STATE._replace(m=m, v=v), hp, layer_axes=(1,))
    alone = stepsizes_by_operation(demo.PARAM, demo.GRAD, demo.STATE, hp)
    for name, stepsizes in alone.items():
        assert together[name].shape == (2, 5)
        assert np.array_equal(together[name][0], stepsizes)


@pytest.mark.parametrize("x", [0, 1.5, -0.01, 0.009999, 999.96, 1000.0, -12345.6, 999999.0, 1e6, 2.5e-17])
def test_number_keeps_four_digits(x: float) -> None:
    text = demo.number(x)
    assert float(text) == pytest.approx(x, rel=5.1e-4)
    assert len(text) < 11
    assert ("e" in text) == (x != 0 and not 1e-2 <= abs(x) < 1e6)


def test_switches_show(capsys: pytest.CaptureFixture[str]) -> None:
    rows, (_, *bars, _) = printed(capsys, "--tau", "0", "--cos-power", "0", "--eps-outside")
    assert rows["γ"] == [1]
    assert rows["w̃"] == rows["w"]
    assert len({float(bar.split()[-1]) for bar in bars}) == 1, "nothing of S, E and T is left"
    rows, _ = printed(capsys, "--eps", "1e-4")
    assert min(rows["w"]) == pytest.approx(math.sqrt(1e-4), rel=1e-3)


def test_a_bad_number_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        demo.main(["--tau", "1"])
    assert error.value.code == 2
    assert "tau must be in [0, 1), got 1.0" in capsys.readouterr().err


def test_equal_stepsizes_have_a_drawing() -> None:
    lines = demo.drawing(dict.fromkeys(("Adam", "S", "S, E", "S, E, T"), np.full(3, 2.0))).splitlines()
    assert len(lines) == 6
    assert all(line.endswith("1.00") for line in lines[1:5])


def test_it_runs_as_a_module_with_numpy_alone() -> None:
    """No framework, and no plotting library, is imported."""
    code = (
        "import runpy, sys; sys.argv = ['demo']; runpy.run_module('setadam_core.show.demo', run_name='__main__');"
        "loaded = {'torch', 'jax', 'matplotlib', 'rich', 'scipy'} & set(sys.modules); assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert "largest/smallest" in done.stdout
