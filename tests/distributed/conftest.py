"""The programs that processes run lie beside the tests, and so must be importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
