"""The command line: exit codes, reports, replay, expectations."""

import json
import shlex
import sys
from contextlib import nullcontext
from datetime import date, timedelta

import numpy as np
import pytest

from setadam_conformance.cli import main
from setadam_conformance.judging import oracle
from setadam_conformance.running import backends
from setadam_conformance.running.results import Backend, Cell, Run
from setadam_conformance.teeth import KIT_FAULTS, check_kit, selftest
from setadam_conformance.verdicts import exit_code

FAST = ["--profile", "quick", "--jobs", "1", "--dtype", "float32"]

BROKEN = """
import numpy as np
from setadam_conformance.adapters.spec import NumPySpec

class Broken(NumPySpec):
    '''A relative error of one in a million in θ.'''
    name = "broken"
    def step(self, *args):
        params, states = super().step(*args)
        return [p * np.float32(1 + 1e-6) for p in params], states

class Absent(NumPySpec):
    def __init__(self, device):
        raise ImportError("pip install absent")
"""

HOSTILE = """
class Sound(NumPySpec):
    pass

class Breaks(NumPySpec):
    def __init__(self, device):
        1 / 0

class Exits(NumPySpec):
    def __init__(self, device):
        raise SystemExit(5)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "adapters_for_cli.py").write_text(BROKEN)
    return tmp_path


def test_a_conforming_backend_exits_with_0_and_writes_its_reports(here, capsys):
    code = main(["run", "--backend", "spec:numpy", *FAST, "--report", "out", "--junit", "out/junit.xml"])
    assert code == 0
    printed = capsys.readouterr().out
    assert "one-step" in printed
    assert "spec:numpy" in printed
    report = json.loads((here / "out/report.json").read_text())
    assert report["exit_code"] == 0
    assert {path.name for path in (here / "out").iterdir()} == {"report.json", "report.html", "junit.xml"}


def test_a_fault_exits_with_1_and_its_example_replays_bit_for_bit(here, capsys):
    backend = "adapters_for_cli:Broken"
    args = ["run", "--backend", backend, *FAST, "--property", "one-step", "--report", "out"]
    assert main(args) == 1
    assert "--> answer" in capsys.readouterr().out
    (repro,) = (here / "out/failures").iterdir()
    assert main(["replay", str(repro)]) == 2  # a file does not choose what is imported
    assert "asks for 'adapters_for_cli:Broken'" in capsys.readouterr().err
    assert main(["replay", str(repro), "--backend", "adapters_for_cli:Broken"]) == 1
    first = capsys.readouterr().out
    assert "still fails one-step" in first
    assert main(["replay", str(repro), "--backend", "adapters_for_cli:Broken"]) == 1
    assert capsys.readouterr().out == first
    assert main(["replay", str(repro), "--backend", "spec:numpy"]) == 0


@pytest.mark.parametrize(
    "args",
    [
        ["run", "--property", "no-such-property"],
        ["explain", "no-such-property"],
        ["replay", "no-such-file.json"],
        ["report", "diff", "a.json", "b.json"],
        ["run", "--expect", "no-such-file.toml"],
    ],
)
def test_wrong_arguments_exit_with_2_and_say_why(here, capsys, args):
    assert main(args) == 2
    assert capsys.readouterr().err.startswith("setadam-conformance: ")


@pytest.mark.parametrize(
    "args",
    [
        ["run", "--shard", "3/2"],
        ["run", "--max-examples", "0"],
        ["run", "--dtype", "int8"],
        ["run", "--patience", "10000000"],
    ],
)
def test_the_parser_checks_what_it_can(args, capsys):
    with pytest.raises(SystemExit) as error:
        main(args)
    assert error.value.code == 2


@pytest.mark.parametrize("backend", ["nonsense", "no_module:Thing", "adapters_for_cli:Absent"])
def test_a_backend_that_does_not_load_exits_with_3(here, backend):
    assert main(["run", "--backend", backend, *FAST, "--summary"]) == 3


@pytest.mark.parametrize(
    ("names", "code"), [(["numpy"], 0), (["numpy:fused"], 3), (["numpy", "numpy:fused"], 3), (["cupy"], 3)]
)
@pytest.mark.parametrize("command", [["run", "--property", "sign", *FAST], ["vectors", "check"]])
def test_a_path_without_its_optional_library_is_skipped_unless_it_is_named(monkeypatch, capsys, command, names, code):
    """As if Numba were missing. `cupy` has no path on a machine without a GPU."""
    monkeypatch.setattr("setadam_numpy.conformance.why_not", lambda dtype: "Numba is not installed")
    chosen = [word for name in names for word in ("--backend", name)]
    assert main([*command, *chosen]) == code
    if names[0] != "cupy":
        assert "numpy:fused did not run here: Numba is not installed" in capsys.readouterr().out


@pytest.fixture
def registered(here, monkeypatch):
    """Three registered backends of one framework. One of them can run."""
    (here / "adapters_for_cli.py").write_text(BROKEN + HOSTILE)
    sys.modules.pop("adapters_for_cli", None)
    names = ("Sound", "Absent", "Breaks", "Exits")
    monkeypatch.setattr(backends, "BUILT_IN", {f"mine:{name.lower()}": f"adapters_for_cli:{name}" for name in names})
    monkeypatch.setattr(backends, "entry_points", lambda group: ())


@pytest.mark.parametrize("named", [[], ["--backend", "mine"]])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_registered_backend_that_breaks_does_not_end_the_run_for_others(here, registered, capsys, named, jobs):
    args = ["run", *named, "--profile", "quick", "--dtype", "float32", "--property", "sign", "--jobs", jobs]
    assert main([*args, "--report", "out"]) == 3
    report = json.loads((here / "out/report.json").read_text())
    found = {(cell["backend"], cell["property"]): (cell["status"], cell["reason"]) for cell in report["cells"]}
    assert found == {
        ("mine:sound", "sign"): ("pass", ""),
        ("mine:breaks", "loading"): ("error", "mine:breaks('cpu') raised ZeroDivisionError: division by zero"),
        ("mine:exits", "loading"): ("error", "mine:exits('cpu') raised SystemExit: 5"),
    }
    assert "mine:absent did not run here: pip install absent" in capsys.readouterr().out


def test_list_and_vectors_continue_after_a_broken_backend(registered, capsys):
    assert main(["list"]) == 0
    assert "broken: mine:breaks('cpu') raised ZeroDivisionError" in capsys.readouterr().out
    assert main(["vectors", "check"]) == 3
    printed = capsys.readouterr().out
    assert "mine:breaks did not run here: mine:breaks('cpu') raised ZeroDivisionError" in printed
    assert "mine:sound: " in printed


# A program that follows the protocol, until its third step.
DYING = """
import json, os, sys, time
for line in sys.stdin:
    ask = json.loads(line)
    if ask["cmd"] == "stop":
        break
    if ask["cmd"] == "start":
        print(json.dumps({"protocol": 1, "dtypes": ["float32"]}), flush=True)
        continue
    if ask["seq"] == 3:
        print("so far so good", file=sys.stderr, flush=True)
        END
    layers = [{key: layer[key] for key in ("param", "m", "v")} for layer in ask["layers"]]
    print(json.dumps({"seq": ask["seq"], "t": ask["t"] + 1, "layers": layers}), flush=True)
"""


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.abort()", "ended with exit status -6 before it replied"),
        ("sys.exit(0)", "ended with exit status 0 before it replied"),
        ("print('Bus error', flush=True); continue", "wrote a line that is not JSON"),
        ("os.close(1); time.sleep(600)", "closed its output before it replied"),
        ("time.sleep(600)", "gave no reply in 1 s"),
        ("sys.stdout.write('{'); sys.stdout.flush(); time.sleep(600)", "gave no reply in 1 s"),
    ],
)
def test_a_program_that_crashes_or_hangs_exits_with_3_and_the_reason(here, capsys, end, said):
    """In two properties: the first reports what the program did, and the second why it is not tried.

    --patience is the adapter's timeout, so that the adapter kills the program and no process is left.
    """
    (here / "dying.py").write_text(DYING.replace("END", end))
    program = f"cmd:{shlex.quote(sys.executable)} -S {shlex.quote(str(here / 'dying.py'))}"
    args = ["run", "--backend", program, "--profile", "quick", "--property", "determinism", "--property", "sign"]
    assert main([*args, "--jobs", "2", "--patience", "1", "--report", "out"]) == 3
    cells = json.loads((here / "out/report.json").read_text())["cells"]
    assert [cell["status"] for cell in cells] == ["error", "error"]
    told, after = sorted((cell["reason"] for cell in cells), key=lambda reason: "is closed" in reason)
    assert said in told
    assert told.endswith("its stderr ended with:\nso far so good")
    assert f"is closed, as it {said}" in after


@pytest.mark.parametrize("broken", ["moments", "parameter"])
def test_an_error_in_the_kit_exits_with_5(monkeypatch, capsys, broken):
    """An oracle that raises an error: it would be blamed on every backend."""

    def oracle_of_the_wrong_shape(*args, **kwargs):
        return np.zeros(3) + np.zeros(4)

    monkeypatch.setattr(oracle, broken, oracle_of_the_wrong_shape)
    args = ["run", "--backend", "spec:numpy", *FAST, "--property", "sign", "--property", "one-step"]
    assert main(args) == 5
    printed = capsys.readouterr().out
    assert "the kit failed: ValueError: operands could not be broadcast" in printed
    assert "not judged: the kit itself is at fault" in printed


@pytest.mark.parametrize(("fault", "code"), [(None, 0), ("bound-tenfold", 5), ("oracle-in-float64", 5)])
def test_a_selftest_of_a_wrong_kit_exits_with_5(monkeypatch, capsys, fault, code):
    """A wrong bound or oracle fails the kit's own checks. The faults are not needed for that."""
    monkeypatch.setattr(selftest, "check_kit", lambda: check_kit(names=()))
    with KIT_FAULTS[fault].applied() if fault else nullcontext():
        assert main(["selftest", "--only", "kit", "--jobs", "1"]) == code
    assert capsys.readouterr().out.endswith("faults of the kit noticed" + ("; not: \n" if code else "\n"))


def test_nothing_run_exits_with_4(here):
    args = ["run", "--backend", "spec:strict", "--profile", "quick", "--jobs", "1", "--dtype", "bfloat16"]
    assert main(args) == 4  # array-api-strict has no bfloat16: no cell at all


def cells_of(*statuses, reason=""):
    cells = [Cell("p", "b", "float32", status=status, reason=reason) for status in statuses]
    return Run("quick", 0, (1, 1), "", 0.0, {}, [Backend("b", "numpy")], cells)


@pytest.mark.parametrize(
    ("statuses", "reason", "code"),
    [
        (["pass", "xfail", "skip"], "", 0),
        (["pass", "fail"], "", 1),
        (["pass", "xpass"], "", 1),
        (["pass", "lapsed"], "", 1),
        (["pass", "error"], "the program died", 3),
        (["skip"], "", 4),
        (["pass", "vacuous"], "", 4),
        (["fail", "error"], "the kit failed: ZeroDivisionError", 5),
    ],
)
def test_exit_codes(statuses, reason, code):
    assert exit_code(cells_of(*statuses, reason=reason), lacking=False) == code


def test_a_named_backend_that_is_missing_exits_with_3():
    assert exit_code(cells_of("pass"), lacking=True) == 3


def expectation(path, status="xfail", days=30, prop="one-step", reason="known since the port"):
    day = (date.today() + timedelta(days=days)).isoformat()
    path.write_text(
        f'[[expect]]\nproperty = "{prop}"\nbackend = "adapters_for_cli:*"\nstatus = "{status}"\n'
        f'reason = "{reason}"\nexpires = {day}\n'
    )
    return str(path)


@pytest.mark.parametrize(
    ("backend", "status", "days", "prop", "code"),
    [
        ("Broken", "xfail", 30, "one-step", 0),  # expected, and not lapsed
        ("Broken", "xfail", 0, "one-step", 1),  # lapsed today
        ("Broken", "xfail", 30, "sign", 1),  # excuses another property
        ("Sound", "xfail", 30, "sign", 0),  # is for a run of that property
        ("Sound", "xfail", 30, "sing", 1),  # can match nothing, in any run
        ("Broken", "skip", 30, "one-step", 4),  # skipping all leaves nothing
        ("Sound", "xfail", 30, "one-step", 1),  # passes against the expectation
    ],
)
def test_expectations_lapse_and_may_not_be_stale(here, backend, status, days, prop, code):
    with (here / "adapters_for_cli.py").open("a") as file:
        file.write("\nclass Sound(NumPySpec):\n    name = 'sound'\n")
    sys.modules.pop("adapters_for_cli", None)
    path = expectation(here / "expect.toml", status, days, prop)
    args = ["run", "--backend", f"adapters_for_cli:{backend}", *FAST, "--property", "one-step", "--expect", path]
    assert main(args) == code


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('[[expect]]\nstatus = "xfail"\nexpires = 2030-01-01\n', "reason"),
        ('[[expect]]\nstatus = "xfail"\nreason = "r"\n', "expires"),
        ('[[expect]]\nstatus = "maybe"\nreason = "r"\nexpires = 2030-01-01\n', "status"),
        ('[[expect]]\nwhen = 1\nstatus = "skip"\nreason = "r"\nexpires = 2030-01-01\n', "when"),
        ("[[expect\n", "cannot read"),
    ],
)
def test_an_expectation_without_reason_or_date_is_refused(here, capsys, text, names):
    (here / "expect.toml").write_text(text)
    assert main(["run", *FAST, "--expect", "expect.toml"]) == 2
    assert names in capsys.readouterr().err


def test_list_and_explain(capsys):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "spec:numpy" in listed
    assert "trajectory" in listed
    assert main(["explain", "scale-free"]) == 0
    assert "Source" in capsys.readouterr().out


def test_report_diff_reports_what_got_worse(here, capsys):
    assert main(["run", "--backend", "spec:numpy", *FAST, "--property", "sign", "--report", "a", "--summary"]) == 0
    assert main(["report", "diff", "a/report.json", "a/report.json"]) == 0
    worse = json.loads((here / "a/report.json").read_text())
    worse["cells"][0]["status"] = "fail"
    (here / "b.json").write_text(json.dumps(worse))
    assert main(["report", "diff", "a/report.json", "b.json"]) == 1
    assert "sign" in capsys.readouterr().out
