"""The programs that processes run lie beside the tests, and so must be importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "torch"))  # for launch_counts.py
