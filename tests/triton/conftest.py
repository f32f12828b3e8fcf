import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed; it has wheels for Linux alone")

sys.path.insert(0, str(Path(__file__).parent))  # for steps.py and interpreted.py

# These run in a process of their own, which test_interpreter.py starts.
if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore = ["test_in_interpreter.py"]
