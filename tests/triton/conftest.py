import os

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed; it has wheels for Linux alone")

# These run in a process of their own, which test_interpreter.py starts.
if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore = ["test_in_interpreter.py"]
