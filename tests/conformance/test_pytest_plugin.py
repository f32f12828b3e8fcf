"""The kit in pytest: tests from `--adapter` and from `@conformance`. Each test runs pytest in a folder of its own."""

import re
from pathlib import Path

import pytest

import setadam_conformance.in_pytest  # noqa: F401  not once for each run below

pytest_plugins = ["pytester"]

ADAPTERS = """
import numpy as np
from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.protocol import Capabilities

class Sound(NumPySpec):
    capabilities = Capabilities(dtypes=("float32", "float64"), options=frozenset())

class Wrong(Sound):
    def step(self, *args):
        params, states = super().step(*args)
        return [p * np.float32(1.001) for p in params], states

class Broken(Sound):
    def step(self, *args):
        return [], []

class Absent(Sound):
    def __init__(self, device):
        raise ImportError("pip install absent")

class NoClaims(Sound):
    capabilities = "all"

    def __init__(self, device):
        pass
"""

TESTS = """
import adapters
from setadam_conformance.pytest_plugin import conformance

@conformance(adapters.{name}, {arguments})
def test_step(cell):
    cell.check()
"""

STEP = 'properties=("one-step", "trajectory"), dtypes=("float32",)'


@pytest.fixture
def folder(pytester, monkeypatch):
    """A folder with the adapters, in which pytest runs."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.delenv("CI", raising=False)  # where it is set, pytest's summary repeats each message whole
    pytester.makepyfile(adapters=ADAPTERS)
    return pytester


def run(folder, *args):
    """The result of pytest with these arguments, in a process of its own.

    In this process, pytester would take back what was imported meanwhile. Numba, of which it then has one part and not
    another, cannot be imported a second time, and every later test of the kernel would fail.
    """
    return folder.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:cov", *args)


def write_tests(folder, name, arguments):
    folder.makepyfile(test_it=TESTS.format(name=name, arguments=arguments))


def test_a_decorated_function_is_a_test_for_each_property_and_dtype(folder):
    write_tests(folder, "Sound", "")
    done = run(folder, "-v")
    outcomes = done.parseoutcomes()
    assert outcomes.keys() == {"passed"}
    assert outcomes["passed"] > 20
    done.stdout.fnmatch_lines(["*::test_step?one-step-float32? PASSED*", "*::test_step?one-step-float64? PASSED*"])
    done.stdout.fnmatch_lines(["*::test_step?coverage? PASSED*"])
    done.stdout.no_fnmatch_line("*weight-decay*")  # an option that is not claimed


def test_adapters_need_no_test_file(folder):
    done = run(folder, "--adapter", "adapters:Sound", "-k", "one-step-float32 or coverage", "-v", "-rs")
    assert {key: done.parseoutcomes().get(key) for key in ("passed", "skipped")} == {"passed": 1, "skipped": 1}
    done.stdout.fnmatch_lines(
        [
            "conformance: adapters:Sound; profile quick, seed 0",
            "*collected * deselected / 2 selected",
            "adapters:Sound::one-step-float32 PASSED*",
            "SKIPPED * can be told only if these have passed in this process: circumstances-float32*",
        ]
    )


def test_paths_are_collected_if_they_are_given(folder):
    folder.makepyfile(test_own="def test_own(): pass")
    select = ["--adapter", "adapters:Sound", "-k", "own or one-step-float32"]
    assert run(folder, *select).parseoutcomes()["passed"] == 1
    assert run(folder, *select, "test_own.py").parseoutcomes()["passed"] == 2
    assert run(folder).parseoutcomes() == {"passed": 1}


def test_a_failure_is_a_diagnosis_and_not_a_traceback(folder):
    write_tests(folder, "Wrong", STEP)
    done = run(folder)
    assert done.parseoutcomes() == {"failed": 2}
    done.stdout.fnmatch_lines(
        [
            "*test_step?one-step-float32?*",
            "*is wrong, m and v are right",
            "  look at: *",
            "  in one-step (float32)",
            "*--> answer*bound",
            "*test_step?trajectory-float32?*",
            "  the cause is that of one-step-float32, and is explained there",
            "FAILED test_it.py::test_step?one-step-float32? - *",
        ]
    )
    printed = done.stdout.str()
    assert "cell.check()" not in printed
    assert "in_pytest.py" not in printed
    assert printed.count("--> answer") == 1


def test_a_failure_without_a_file_looks_the_same(folder):
    done = run(folder, "--adapter", "adapters:Wrong", "-k", "trajectory-float32")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(
        [
            "*adapters:Wrong::trajectory-float32*",
            "*is wrong, m and v are right",
            "*--> answer*bound",
            "FAILED adapters:*",
        ]
    )
    assert "in_pytest.py" not in done.stdout.str()


def test_a_broken_protocol_is_an_error_in_words(folder):
    write_tests(folder, "Broken", STEP)
    done = run(folder)
    assert done.parseoutcomes() == {"failed": 2}
    done.stdout.fnmatch_lines(["error: *returned 0 layers*"])
    write_tests(folder, "NoClaims", STEP)
    done = run(folder)
    assert done.parseoutcomes() == {"failed": 1}
    done.stdout.fnmatch_lines(
        ["*test_step?loading?*", "adapters:NoClaims: error: *capabilities must be a Capabilities*"]
    )


@pytest.mark.parametrize("args", [["test_it.py"], ["--adapter", "adapters:Absent"]])
def test_a_missing_library_is_a_skip_with_the_reason(folder, args):
    write_tests(folder, "Absent", STEP)
    done = run(folder, "-rs", *args)
    assert done.parseoutcomes() == {"skipped": 1}
    done.stdout.fnmatch_lines(["SKIPPED * adapters:Absent cannot run here: pip install absent"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adaptors:Sound", "*no module is called 'adaptors'*"),
        ("adaptors.mine:Sound", "*no module is called 'adaptors.mine'*"),
        ("nothing", "*no backend or framework is called 'nothing'*"),
    ],
)
def test_a_misspelt_name_is_an_error_and_not_a_skip(folder, name, message):
    done = run(folder, "--adapter", name)
    assert done.ret == pytest.ExitCode.INTERRUPTED
    done.stdout.fnmatch_lines([f"*ERROR collecting {name}*", message])
    assert "in_pytest.py" not in done.stdout.str()


def test_a_selection_of_nothing_is_an_error(folder):
    write_tests(folder, "Sound", 'dtypes=("float16",)')
    done = run(folder)
    assert done.parseoutcomes() == {"errors": 1}
    done.stdout.fnmatch_lines(["*no property concerns *dtypes=('float16',)*"])


def test_a_framework_is_all_its_backends(folder):
    done = run(folder, "--adapter", "spec:numpy", "--adapter", "numpy", "-k", "one-step-float32", "-v")
    done.stdout.fnmatch_lines(
        [
            "spec:numpy::one-step-float32 PASSED*",
            "numpy::numpy:fused-one-step-float32 *",
            "numpy::numpy:plain-one-step-float32 PASSED*",
        ]
    )


def test_coverage_is_told_after_what_it_is_about(folder):
    done = run(folder, "--adapter", "adapters:Sound", "-k", "circumstances or coverage")
    assert done.parseoutcomes()["passed"] == 3
    folder.makeconftest(
        "from setadam_conformance.cases import covering\n"
        "design = covering.design\n"
        "covering.design = lambda *args: design(*args)[::2]\n"
    )
    done = run(folder, "--adapter", "adapters:Sound", "-k", "circumstances or coverage")
    assert done.parseoutcomes()["failed"] == 1
    done.stdout.fnmatch_lines(["*adapters:Sound::coverage*", "vacuous: these * did not run: *"])


def test_the_cells_run_on_workers_too(folder):
    pytest.importorskip("xdist")
    args = ["--adapter", "adapters:Sound", "--adapter", "adapters:Wrong", "-k", "one-step or coverage", "-n", "2"]
    done = run(folder, *args)
    assert done.parseoutcomes() == {"passed": 2, "failed": 2, "skipped": 2}
    done.stdout.fnmatch_lines(["*is wrong, m and v are right", "*--> answer*bound"])


def test_the_profile_the_seed_and_the_device_are_options(folder):
    args = ["--conformance-profile", "default", "--conformance-seed", "3", "--conformance-device", "cuda:9", "-rs"]
    done = run(folder, "--adapter", "adapters:Sound", *args)
    assert done.parseoutcomes() == {"skipped": 1}
    done.stdout.fnmatch_lines(["conformance: adapters:Sound; profile default, seed 3", "*has no device 'cuda:9'*"])


def test_nothing_is_imported_if_nothing_is_asked_for(folder):
    folder.makepyfile(
        test_own="""
        import sys

        def test_own():
            ours = {name for name in sys.modules if name.startswith("setadam")}
            assert ours == {
                "setadam_conformance", "setadam_conformance.libraries", "setadam_conformance.pytest_plugin"
            }
        """
    )
    assert run(folder, "-p", "no:hypothesispytest").parseoutcomes() == {"passed": 1}


def test_the_files_of_the_page_pass(folder):
    text = (Path(__file__).parents[2] / "docs/pytest.md").read_text(encoding="utf-8")
    files = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, flags=re.DOTALL)
    assert [name for name, _ in files] == ["adapters.py", "test_adapters.py", "test_function.py"]
    for name, code in files:
        (folder.path / name).write_text(code, encoding="utf-8")
    outcomes = run(folder).parseoutcomes()
    assert outcomes.keys() == {"passed"}
    assert outcomes["passed"] > 20
