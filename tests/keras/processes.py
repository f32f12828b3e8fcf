"""Runs all checks on one of Keras's backends, in a process of its own: `python processes.py REPORT` there.

A check is a function of a module `checks_*.py` beside this file whose name does not begin with an underscore. Keras has
one backend in a process, so the tests' own process never imports it.
"""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
MODULES = sorted(path.stem for path in HERE.glob("checks_*.py"))
CHECKS = [
    f"{module}.{name}"
    for module in MODULES
    for name in re.findall(r"^def ([a-z]\w*)\(", (HERE / f"{module}.py").read_text(encoding="utf-8"), re.MULTILINE)
]


class Skipped(Exception):  # noqa: N818  not an error
    """Raised by a check that does not concern this backend."""


def why_not(backend):
    """Why there is no Keras on this backend here, or None."""
    absent = [name for name in ("keras", backend) if importlib.util.find_spec(name) is None]
    return f"{absent[0]} is not installed" if absent else None


@functools.cache
def reports(backend, folder):
    """For each check (None, or "skipped" or "failed", and why)."""
    folder.mkdir(parents=True)
    env = os.environ | {
        "KERAS_BACKEND": backend,
        "KERAS_HOME": str(folder),  # nobody's settings
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    report = folder / "report.json"
    command = [sys.executable, "-W", "error::UserWarning", str(HERE / "processes.py"), str(report)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300)
    if not report.exists():
        raise RuntimeError(f"the checks on {backend} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(report.read_text(encoding="utf-8"))


def _run(name):
    module, _, function = name.partition(".")
    try:
        getattr(import_module(module), function)()
    except Skipped as why:
        return "skipped", str(why)
    except Exception:
        return "failed", traceback.format_exc()
    return None, ""


def _two_devices():
    """TensorFlow's CPU as two; JAX has XLA_FLAGS for that."""
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], halves)


if __name__ == "__main__":
    from processes import _run as run  # the module that the checks import, for the same Skipped

    _two_devices()
    Path(sys.argv[1]).write_text(json.dumps({name: run(name) for name in CHECKS}), encoding="utf-8")
