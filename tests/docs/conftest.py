"""The driver of the browser lies beside the tests, and so must be importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
