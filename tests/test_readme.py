"""README.md's code runs, and its table holds."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from setadam_core import Hyperparameters, init, step

README = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
ROWS = re.findall(r"^\| (1e-\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", README, flags=re.MULTILINE)


@pytest.mark.parametrize("code", [pytest.param(code, id=f"block{i}") for i, code in enumerate(BLOCKS)])
def test_python_block(code: str) -> None:
    """Each by itself; one for a framework that is not installed is skipped."""
    for package in re.findall(r"^(?:import|from) (\w+)", code, flags=re.MULTILINE):
        framework = package.removeprefix("setadam_")
        if framework not in ("core", "conformance") and importlib.util.find_spec(framework) is None:
            pytest.skip(f"{framework} is not installed")
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


def test_there_is_something_to_run() -> None:
    assert BLOCKS
    assert len(ROWS) == 6


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_first_step_table(row: tuple[str, ...]) -> None:
    grad = np.full(3, float(row[0]))
    settings = ({"tau": 0, "eps_inside_sqrt": False}, {"tau": 0}, {})
    for printed, changes in zip(row[1:], settings, strict=True):
        hp = Hyperparameters(lr=1, **changes)
        theta, _ = step(np.zeros(3), grad, init(grad), hp)
        assert f"{-theta[0]:.4f}" == printed
