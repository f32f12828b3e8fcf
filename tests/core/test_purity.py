"""The specification is small, and imports no framework."""

import subprocess
import sys
from pathlib import Path

import setadam_core

FRAMEWORKS = ("torch", "jax", "cupy", "dask", "array_api_strict", "tensorflow", "ndonnx", "sparse", "optax", "numba")


def test_import_loads_no_framework() -> None:
    code = f"import sys, setadam_core; print(*set({FRAMEWORKS!r}) & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_step_under_numpy_loads_no_framework() -> None:
    code = (
        "import sys, numpy as np, setadam_core as s; x = np.ones(3); s.step(x, x, s.init(x), s.Hyperparameters());"
        f"print(*set({FRAMEWORKS!r}) & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_specification_is_short() -> None:
    spec = Path(setadam_core.__file__).with_name("spec.py")
    assert len(spec.read_text(encoding="utf-8").splitlines()) < 150


def test_public_names() -> None:
    assert setadam_core.__all__ == ["Hyperparameters", "Rounding", "State", "Trace", "init", "step", "trace"]
    assert all(getattr(setadam_core, name).__doc__ for name in setadam_core.__all__)
