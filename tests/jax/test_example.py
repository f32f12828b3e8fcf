"""The example runs, learns, and shows each layer."""

import io
import pathlib
import runpy

import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "jax_digits.py"


def test_digits():
    for module in ("equinox", "sklearn", "rich"):
        pytest.importorskip(module)
    from rich.console import Console

    out = io.StringIO()
    accuracy = runpy.run_path(str(EXAMPLE))["train"](4, 0, Console(file=out, width=100))
    assert accuracy > 0.85  # 0.1 is chance; 84 steps reach 0.94
    assert "layers[2].bias" in out.getvalue()
