"""docs/sharding.md: its picture."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_picture_is_what_its_script_draws():
    pictures = Path(__file__).parents[2] / "docs" / "pictures"
    drawn = subprocess.run(
        [sys.executable, str(pictures / "sharding.py")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONUTF8": "1"},
        check=True,
    )
    assert drawn.stdout == (pictures / "sharding.svg").read_text(encoding="utf-8")
