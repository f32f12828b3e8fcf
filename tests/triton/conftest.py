import os
import sys
from importlib.util import find_spec
from pathlib import Path

# For steps.py, interpreted.py and ptx.py.
sys.path.insert(0, str(Path(__file__).parent))

collect_ignore = []
if find_spec("torch") is None or find_spec("triton") is None:  # test_interpreter.py says so
    collect_ignore += ["test_compiled.py", "test_gpu.py"]
if os.environ.get("TRITON_INTERPRET") != "1":  # it runs in a process of its own, started by test_interpreter.py
    collect_ignore += [path.name for path in Path(__file__).parent.glob("test_*in_interpreter.py")]
