"""The files that a release and the hosting page need say what pyproject.toml, the Makefile and the changelog say."""

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SERVICES = [*WORKFLOWS, ROOT / ".readthedocs.yaml"]
PYTHONS = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(workflow: Any) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        assert set(job) >= {"runs-on", "steps"}
        yield from job["steps"]


def commands(path: Path) -> list[str]:
    data = load(path)
    if path.name == ".readthedocs.yaml":
        return data["build"]["commands"]
    return [line for step in steps(data) for line in step.get("run", "").splitlines()]


def targets() -> set[str]:
    """The Makefile's targets, as its help lists them."""
    found = re.findall(r"^#   make ([\w-]+)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {*found, "lint"}


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_services_run_the_commands_of_the_house(path: Path) -> None:
    """A make target with known variables, or a command of the system: anything else would have to be kept in step."""
    assert commands(path)
    for line in commands(path):
        words = shlex.split(line)
        if words[0] in ("mkdir", "cp"):
            continue
        assert words[0] == "make", line
        target, *variables = words[1:]
        assert target in targets(), line
        assert {v.partition("=")[0] for v in variables} <= {"ARGS", "BACKENDS", "PYTHON", "TORCH"}, line


@pytest.mark.skipif(sys.platform == "win32", reason="what it tests is the same on every system")
@pytest.mark.parametrize("target", sorted(targets() - {"help"}))
def test_make_knows_each_target_and_what_it_needs(target: str) -> None:
    words = ["make", "--dry-run", target, "STUDY=compare"]
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("make is not installed")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_what_the_host_asks_for(path: Path) -> None:
    workflow = load(path)
    assert workflow["name"] == path.stem
    assert workflow[True]  # `on`, which YAML reads as a truth value
    assert workflow["permissions"] == {"contents": "read"}  # and more only where a job says so
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[\w./-]+", step.get("uses", "a/b@c"))


def test_each_python_that_is_claimed_is_tested_on_each_system() -> None:
    matrix = load(ROOT / ".github/workflows/test.yml")["jobs"]["python"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert [system.partition("-")[0] for system in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


def test_publishing_needs_no_token() -> None:
    job = load(ROOT / ".github/workflows/publish.yml")["jobs"]["publish"]
    assert job["permissions"] == {"id-token": "write"}
    assert "secrets" not in (ROOT / ".github/workflows/publish.yml").read_text(encoding="utf-8")
    assert not any("run" in step for step in job["steps"])  # nothing of ours runs with the right to upload


def test_the_citation_is_of_this_version_and_this_paper() -> None:
    citation = load(ROOT / "CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    paper = citation["preferred-citation"]
    assert paper["url"] == PROJECT["urls"]["Paper"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (entry,) = re.findall(r"^@article\{.*?^\}", readme, flags=re.DOTALL | re.MULTILINE)
    for said in (paper["title"], paper["journal"], str(paper["year"]), paper["authors"][0]["family-names"]):
        assert said in entry.replace("{Adam}", "Adam")


def test_the_changelog_has_this_version_with_the_citations_date() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.*?)\](?: - (\S+))?$", changelog, flags=re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert versions[1] == (PROJECT["version"], str(load(ROOT / "CITATION.cff")["date-released"]))


# Versions


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tests/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oldest = script("oldest")
PINS = dict(
    re.findall(
        r"^([\w.-]+)==(\d+(?:\.\d+)*)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
)
PINS = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in PINS.items()}


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_what_is_required_has_one_lower_bound_and_is_tested_with_a_later_release(extra: str) -> None:
    bounds = oldest.oldest([extra])
    assert bounds[("numpy", "")] == "2.1.2"
    for (name, _), version in bounds.items():
        assert oldest.numbers(version) <= oldest.numbers(PINS[name]), name


def test_of_several_bounds_the_highest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = {"a": ["x>=1.9", "setadam[b]"], "b": ["X>=1.10", "y[z]>=2; python_version < '4'"], "c": ["y<3"]}
    monkeypatch.setattr(oldest, "PROJECT", {"dependencies": ["x>=1.2"], "optional-dependencies": extras})
    assert oldest.oldest(["a"]) == {("x", ""): "1.10", ("y", "; python_version < '4'"): "2"}
    with pytest.raises(ValueError, match="got 'y<3'"):
        oldest.oldest(["c"])
