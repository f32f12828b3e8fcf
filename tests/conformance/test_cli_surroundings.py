"""The command line in bad surroundings: streams, folders, scripts and backends that would end Python with exit code 1.

Each command runs in a process of its own, in an empty folder.
"""

import json
import os
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from setadam_conformance.cli import main
from setadam_conformance.commands.outputs import name_repros, write_outputs
from setadam_conformance.running.results import Backend, Cell, Failure, Run

QUICK = ["run", "--profile", "quick", "--dtype", "float32", "--property", "sign", "--summary"]
SPEC = [*QUICK, "--backend", "spec:numpy"]

ADAPTERS = """
import os, sys, time
from setadam_conformance.adapters.spec import NumPySpec

class Talks(NumPySpec):
    def step(self, *args):
        print("a word " * 20_000)
        return super().step(*args)

class Wrong(NumPySpec):
    def step(self, *args):
        params, states = super().step(*args)
        return [p + 1 for p in params], states
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


MAIN = "import sys; from setadam_conformance.cli import main; sys.exit(main(sys.argv[1:]))"


def command(*args, code=MAIN, encoding="utf-8"):
    """Run the command line in a process of its own; its exit code, stdout and stderr. encoding: of its streams."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, encoding=encoding, env=environment)
    return done.returncode, done.stdout, done.stderr


def shell(line, *args):
    """Run the command line inside a line of POSIX shell, as the function `kit`; the exit code of the line."""
    words = [sys.executable, "-m", "setadam_conformance", *args]
    quoted = " ".join(f"'{word}'" for word in words)
    return subprocess.run(["bash", "-o", "pipefail", "-c", f"kit() {{ {quoted}; }}\n{line}"], check=False).returncode


posix = pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")


def test_a_run_leaves_nothing_in_the_working_directory(here):
    """Not even `.hypothesis/`, in this process and in workers."""
    for jobs in ("1", "2"):
        assert command(*SPEC, "--jobs", jobs)[0] == 0
    assert list(here.iterdir()) == []


@posix
@pytest.mark.parametrize(
    "line",
    [
        "kit | true",
        "kit 2>&1 | true",
        "kit >&-",
        "kit >&- 2>&- <&-",
        pytest.param("kit >/dev/full", marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full")),
    ],
)
def test_the_verdict_does_not_depend_on_who_reads_it(here, line):
    """A reader that went away, a closed stdout and a full disk. What the adapter prints has no reader either."""
    (here / "talking.py").write_text(ADAPTERS)
    for name, jobs, code in (("Talks", "2", 0), ("Wrong", "1", 1)):
        args = [*QUICK, "--backend", f"talking:{name}", "--jobs", jobs, "--report", name]
        assert shell(line, *args) == code
        assert json.loads((here / name / "report.json").read_text(encoding="utf-8"))["exit_code"] == code


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_symbols_that_a_terminal_lacks_are_replaced(here, encoding):
    code, out, _ = command("explain", "scale-free", encoding=encoding)
    assert code == 0
    assert "cos" in out
    assert ("γ = cos²" in out) is (encoding == "utf-8")
    assert command(*SPEC, "--jobs", "1", encoding=encoding)[0] == 0


@pytest.mark.parametrize("from_stdin", [False, True])
def test_a_script_without_a_guard_gets_its_verdict(here, from_stdin):
    """A worker does not import the main module again."""
    script = f"import sys; from setadam_conformance.cli import main; sys.exit(main({[*SPEC, '--jobs', '2']}))"
    (here / "script.py").write_text(script)
    words = [sys.executable] if from_stdin else [sys.executable, "script.py"]
    done = subprocess.run(words, input=script, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("conforms") == 1


@pytest.mark.parametrize(
    ("module", "jobs", "said"),
    [
        ("from setadam_conformance.cli import main; main(['list'])", "1", "runs setadam_conformance when it is import"),
        ("from setadam_conformance.cli import main; main(['list'])", "2", "runs setadam_conformance when it is import"),
        ("import sys; sys.exit(1)", "1", "raised SystemExit: 1"),
        ("import os; os._exit(1)", "2", "ended the process that loaded it"),
        ("1 / 0", "1", "raised ZeroDivisionError"),
        ("x = 1", "1", "has no attribute 'Mine'"),
        ("import no_such_module", "1", "No module named 'no_such_module'"),
    ],
)
def test_an_import_that_ends_python_is_not_a_verdict(here, jobs, module, said):
    (here / "mine.py").write_text(module)
    code, out, _ = command(*QUICK, "--backend", "mine:Mine", "--jobs", jobs)
    assert code == 3
    assert said in out


@pytest.mark.parametrize("backend", ["hangs:Mine", f"cmd:'{sys.executable}' -S -c 'import time; time.sleep(600)'"])
def test_patience_covers_an_import_and_the_start_of_a_program(here, backend):
    (here / "hangs.py").write_text("import time; time.sleep(600)")
    code, out, _ = command(*QUICK, "--backend", backend, "--jobs", "2", "--patience", "1")
    assert code == 3
    assert "took more than 1 s" in out or "gave no reply in 1 s" in out


def test_patience_limits_a_program_in_the_same_process(here):
    program = f"cmd:'{sys.executable}' -S -c 'import time; time.sleep(600)'"
    code, out, _ = command(*QUICK, "--backend", program, "--jobs", "1", "--patience", "1")
    assert code == 3
    assert "gave no reply in 1 s" in out


LOCKING = """
import fcntl, sys, time
file = open("lock", "w")
fcntl.flock(file, fcntl.LOCK_EX)
open("locked", "w").close()
time.sleep(600)
"""


@posix
def test_no_worker_is_left_when_a_run_is_killed(here):
    """The worker holds a lock for as long as it lives, which the test then gets."""
    import fcntl

    (here / "locking.py").write_text(LOCKING)
    words = [sys.executable, "-c", MAIN, *QUICK, "--backend", "locking:Mine", "--jobs", "2"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while not (here / "locked").exists():
            assert run.poll() is None
            time.sleep(0.05)
        run.kill()
    with (here / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def test_a_missing_library_of_the_kit_is_no_verdict(here):
    code, _, err = command("list", code=f"import sys; sys.modules['hypothesis'] = None; {MAIN}")
    assert code == 3
    assert "the kit needs hypothesis: `pip install " in err


@posix
def test_a_working_directory_that_is_gone_is_no_verdict(here):
    """Hypothesis asks for it when it is imported."""
    (here / "gone").mkdir()
    assert shell("cd gone && rmdir ../gone && kit", *SPEC) == 5


@pytest.mark.parametrize(
    ("error", "code"), [(ZeroDivisionError, 5), (KeyboardInterrupt, 130), (SystemExit(1), 3), (BrokenPipeError, 5)]
)
def test_an_exception_that_nothing_catches_is_no_verdict(monkeypatch, capsys, error, code):
    def raises(*args):
        raise error

    monkeypatch.setattr("setadam_conformance.commands.listing.backends.known", raises)
    assert main(["list"]) == code
    assert "setadam-conformance: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("--report", "a_file"),
        ("--report", "a_file/below"),
        ("--report", "x" * 300),
        ("--report", "failures_is_a_file"),
        ("--junit", "a_folder"),
        ("--junit", "a_file/x.xml"),
        ("--junit", "null\0character"),
    ],
)
def test_output_paths_are_checked_before_the_run(here, monkeypatch, capsys, option, path):
    (here / "a_file").touch()
    (here / "a_folder").mkdir()
    (here / "failures_is_a_file").mkdir()
    (here / "failures_is_a_file/failures").touch()
    monkeypatch.setattr("setadam_conformance.commands.run.Workers", None)  # a run would need it
    assert main([*SPEC, option, path]) == 2
    assert capsys.readouterr().err.startswith(f"setadam-conformance: {option}: ")


@pytest.mark.parametrize(
    "args", [["vectors", "generate", "--folder", "a_file"], ["selftest", "--markdown", "a_file/x.md"]]
)
def test_output_paths_of_other_commands_are_checked_too(here, capsys, args):
    (here / "a_file").touch()
    assert main(args) == 2
    assert "a_file" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["lint", "check"])
def test_a_folder_without_vectors_is_a_wrong_argument(here, capsys, action):
    assert main(["vectors", action, "--folder", "nowhere", "--backend", "spec:numpy"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_path_that_can_be_written_is_not_changed_by_the_check(here):
    (here / "old.xml").write_text("old")
    assert main([*SPEC, "--property", "nonsense", "--junit", "old.xml", "--report", "new/er"]) == 2
    assert main([*SPEC, "--expect", "nowhere", "--junit", "old.xml", "--report", "new/er"]) == 2
    assert (here / "old.xml").read_text() == "old"
    assert list((here / "new/er").iterdir()) == []


def failing(*backends):
    """A run in which these backends fail the same property in the same dtype."""
    cells = [Cell("sign", name, "float32", status="fail", failure=Failure("wrong", {"of": name})) for name in backends]
    return Run("quick", 0, (1, 1), "", 0.0, {}, [Backend(name, "mine") for name in backends], cells, exit_code=1)


def test_each_failure_has_a_file_with_a_short_name(here):
    """However long a command is, and if two differ only in characters that file names lack."""
    names = ["cmd:./a b", "cmd:./a/b", "cmd:" + "x" * 5000, "mine:path", "cmd:\udc80"]
    run = failing(*names)
    name_repros(run, here)
    write_outputs(run, here, None)
    files = [cell.failure.repro for cell in run.cells]
    assert len(set(files)) == len(names)
    assert all(len(os.path.basename(file)) < 60 for file in files)
    for file, name in zip(files, names, strict=True):
        with open(file, encoding="utf-8") as data:
            assert json.load(data)["backend"] == name


def test_junit_is_xml_whatever_a_backend_says(here):
    """XML 1.0 has no control characters, no lone surrogates, no U+FFFE and no U+FFFF, not even as references."""
    illegal = "".join(map(chr, [*range(9), 11, 12, *range(14, 32), 0xD800, 0xDFFF, 0xFFFE, 0xFFFF]))
    legal = "\t\n τ\x85\ud7ff\ue000\ufffd\U00010000\U0010ffff <&>"
    for said in (illegal + legal, *illegal):
        run = failing(said)
        run.cells[0].reason = run.cells[0].failure.message = run.cells[0].failure.snippet = said
        write_outputs(run, None, here / "junit.xml")
        shown = said.translate(dict.fromkeys(map(ord, illegal), "\ufffd"))
        (failure,) = ElementTree.parse(here / "junit.xml").getroot().iter("failure")
        assert failure.text == shown
        assert failure.get("message") == f"{shown}\n{shown}"


def test_examples_of_an_earlier_run_go_and_other_files_stay(here):
    for names in (["a:one", "a:two"], ["a:two"], []):
        run = failing(*names)
        name_repros(run, here / "out")
        (here / "out").mkdir(exist_ok=True)
        write_outputs(run, here / "out", None)
        kept = here / "out/failures"
        (kept / "notes.json").write_text("{}")
        assert {str(path) for path in kept.glob("sign-*")} == {cell.failure.repro for cell in run.cells}
    assert [path.name for path in kept.iterdir()] == ["notes.json"]


def test_tables_are_printed_before_files_are_written(here, monkeypatch, capsys):
    """The verdict is seen even if the disk has become full."""

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("setadam_conformance.reporting.write_json", full)
    assert main([*SPEC, "--jobs", "1", "--report", "out"]) == 2
    out, err = capsys.readouterr()
    assert "conforms" in out
    assert "cannot write out: No space left on device" in err
