"""CuPy's stand-in, from tests/cupy."""

import importlib.util
from pathlib import Path

_PATH = Path(__file__).parents[1] / "cupy" / "conftest.py"
_spec = importlib.util.spec_from_file_location("setadam_tests_cupy_conftest", _PATH)
_loaded = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_loaded)
cupy, stand_in = _loaded.cupy, _loaded.stand_in
