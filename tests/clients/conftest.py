"""`make test-clients` runs this folder, in an environment with the trainers; `make test` does not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for snippets.py
