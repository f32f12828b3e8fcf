"""SETAdam on each backend of Keras that is installed: see checks_step, checks_options and checks_training."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import processes

BACKENDS = [
    pytest.param(name, marks=pytest.mark.xdist_group(f"Keras on {name}")) for name in ("torch", "jax", "tensorflow")
]


@pytest.mark.parametrize("check", processes.CHECKS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_check(backend, check, tmp_path_factory):
    if reason := processes.why_not(backend):
        pytest.skip(reason)
    status, what = processes.reports(backend, tmp_path_factory.getbasetemp() / f"keras-{backend}")[check]
    if status == "skipped":
        pytest.skip(what)
    assert status is None, what


def test_keras_is_not_loaded_here():
    """Nothing of the kit's side imports it, so that it can judge two backends in one run."""
    import setadam_conformance.adapters.keras as adapters

    for adapter in (adapters.KerasTorch, adapters.KerasJAX, adapters.KerasTensorFlow):
        missing = [name for name in adapter.needs if importlib.util.find_spec(name) is None]
        if missing:
            with pytest.raises(ImportError, match=f"needs {missing[0]}, which is not installed"):
                adapter()


def test_without_keras_the_command_that_installs_it_is_named():
    code = "import sys; sys.modules['keras'] = None; import setadam_keras"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: setadam_keras needs Keras 3 and the framework that KERAS_BACKEND names")
    assert 'pip install "keras' in last
