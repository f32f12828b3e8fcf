"""docs/sharding.md: its picture."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_picture_is_what_its_script_draws():
    docs = Path(__file__).parents[2] / "docs"
    drawn = subprocess.run(
        [sys.executable, str(docs / "sharding_figure.py")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONUTF8": "1"},
        check=True,
    )
    assert drawn.stdout == (docs / "figures" / "sharding.svg").read_text(encoding="utf-8")
