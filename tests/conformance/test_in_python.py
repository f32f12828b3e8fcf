"""`check_conformance`: a verdict in this process, for callers that are no command line."""

import subprocess
import sys

import numpy as np
import pytest

import setadam_conformance
from setadam_conformance import ConformanceError, check_conformance
from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.cli import main
from setadam_conformance.protocol import Capabilities, ProtocolError
from setadam_conformance.running import runner
from setadam_conformance.running.backends import BackendError
from setadam_core.extras import pip_install

STEP = {"dtypes": ("float32",), "properties": ("one-step",)}


class Sound(NumPySpec):
    capabilities = Capabilities(dtypes=("float32",), options=frozenset())


class Wrong(Sound):
    """A relative error of one in a thousand in θ."""

    def step(self, *args):
        params, states = super().step(*args)
        return [p * np.float32(1.001) for p in params], states


class RefusesNothing(Sound):
    def step(self, params, grads, states, hp, axes):
        try:
            return super().step(params, grads, states, hp, axes)
        except ValueError:
            return params, [s._replace(t=s.t + 1) for s in states]


class Absent(Sound):
    def __init__(self, device):
        raise ImportError("pip install absent")


class OneLayerTooFew(Sound):
    def step(self, *args):
        return [], []


def test_a_class_conforms_in_all_that_concerns_it():
    run = check_conformance(Sound)
    assert run.exit_code == 0
    assert {cell.status for cell in run.cells} == {"pass"}
    assert {"one-step", "circumstances", "hyperparameter-errors"} <= {cell.property for cell in run.cells}
    (backend,) = run.backends
    assert backend.name == f"{__name__}:Sound"
    assert backend.coverage.pairs == backend.coverage.pairs_allowed


@pytest.mark.parametrize("adapter", [Sound(), lambda device: Sound(device), "spec:numpy"])
def test_objects_functions_and_names_are_judged_too(adapter):
    run = check_conformance(adapter, **STEP)
    assert [(cell.property, cell.dtype, cell.status) for cell in run.cells] == [("one-step", "float32", "pass")]


def test_the_message_is_what_the_command_prints(monkeypatch, capsys, tmp_path):
    with pytest.raises(ConformanceError, match="does not conform: one-step") as caught:
        check_conformance(Wrong, **STEP)
    assert isinstance(caught.value, AssertionError)
    assert caught.value.run.exit_code == 1
    (tmp_path / "wrong_adapter.py").write_text(f"import sys\nWrong = sys.modules[{__name__!r}].Wrong\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    args = ["--jobs", "1", "--dtype", "float32", "--property", "one-step", "--profile", "quick", "--summary"]
    assert main(["run", "--backend", "wrong_adapter:Wrong", *args]) == 1

    def diagnosis(text):
        """From the second line to the end of the trace: the first line has the name."""
        lines = text.strip().splitlines()
        return lines[1 : next(i for i, line in enumerate(lines) if "--> answer" in line) + 1]

    told = diagnosis(str(caught.value))
    assert told == diagnosis(capsys.readouterr().out)
    assert len(told) > 10
    assert max(map(len, told)) <= 80


def test_two_objects_of_one_class_are_two_backends():
    good, bad = Sound(), Sound()
    bad.step = Wrong().step
    check_conformance(good, **STEP)
    with pytest.raises(ConformanceError):
        check_conformance(bad, **STEP)
    check_conformance(good, **STEP)


def test_code_of_a_failure_is_shown_if_it_can_import_the_adapter(monkeypatch):
    with pytest.raises(ConformanceError) as caught:
        check_conformance(Wrong, **STEP)
    monkeypatch.setitem(sys.modules, __name__, None)
    with pytest.raises(ConformanceError) as without:
        check_conformance(Wrong, **STEP)
    assert f"select(['{__name__}:Wrong'])" in str(caught.value)
    assert "select(" not in str(without.value)


def test_the_interface_has_a_verdict_of_its_own():
    with pytest.raises(ConformanceError, match="the interface does not") as caught:
        check_conformance(RefusesNothing)
    assert caught.value.run.exit_code == 6
    assert check_conformance(RefusesNothing, about="arithmetic").exit_code == 0


def test_nothing_to_run_is_no_success():
    with pytest.raises(ConformanceError, match="not judged: nothing") as caught:
        check_conformance(Sound, dtypes=("float64",))
    assert caught.value.run.exit_code == 4


def test_what_cannot_be_judged_raises_other_errors():
    with pytest.raises(ImportError, match="pip install absent"):
        check_conformance(Absent)
    with pytest.raises(RuntimeError, match="has no device 'cuda:7'"):
        check_conformance(Sound, device="cuda:7")
    with pytest.raises(ProtocolError, match="returned 0 layers"):
        check_conformance(OneLayerTooFew, **STEP)
    with pytest.raises(ProtocolError, match="has no name, framework, capabilities"):
        check_conformance(object())
    with pytest.raises(BackendError, match="no backend or framework is called 'nothing'"):
        check_conformance("nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "thorough"}, "profile: 'thorough' is none of quick, default, deep"),
        ({"dtypes": ["float8"]}, "dtypes: 'float8' is none of float64, float32"),
        ({"dtypes": "float32"}, "dtypes must be a list or tuple of names, got 'float32'"),
        ({"properties": ("two-steps",)}, "properties: 'two-steps' is none of "),
        ({"about": "speed"}, "about: 'speed' is none of arithmetic, interface"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check_conformance(Sound, **arguments)


def test_what_a_caller_gave_is_not_closed():
    closed = []
    adapter = Sound()
    adapter.close = lambda: closed.append(True)
    check_conformance(adapter, **STEP)
    runner.close_adapters()
    assert not closed


def test_the_package_imports_nothing_until_its_function_is_used():
    code = (
        "import sys, setadam_conformance as kit, setadam_conformance.pytest_plugin\n"
        "assert not {'hypothesis', 'rich', 'mpmath', 'numpy'} & sys.modules.keys(), sys.modules.keys()\n"
        "kit.check_conformance\n"
        "assert 'hypothesis' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("library", ["hypothesis", "rich", "mpmath", "ml_dtypes"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(library):
    code = (
        f"import sys\nsys.modules[{library!r}] = None\n"
        "from setadam_conformance.cli import main\n"
        "import setadam_conformance\n"
        "try:\n    setadam_conformance.check_conformance\n"
        "except ImportError as error:\n    print(error)\n"
        "sys.exit(main(['list']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = f"the kit needs {library}: `{pip_install('conformance')}` installs it\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, said, f"setadam-conformance: {said}")


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'check_confromance'"):
        setadam_conformance.check_confromance  # noqa: B018
