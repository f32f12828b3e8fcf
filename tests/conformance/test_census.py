"""What the census expects of published Adams still holds of the releases that are installed here."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

from setadam_conformance.cli import main
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.running.backends import published

ROOT = Path(__file__).parents[2]
CENSUS = ROOT / "conformance" / "census"
FINDINGS = [
    *(CENSUS / "findings").glob("*.py"),
    *(ROOT / "examples" / "adapters" / "programs" / "findings").glob("*.mjs"),
]
EXPECTED = tomllib.loads((CENSUS / "expectations.toml").read_text(encoding="utf-8"))["expect"]


@pytest.mark.heavy  # make census asks it of all; the page's own commands run in make test
@pytest.mark.parametrize("name", ["torch-adam", "torch-adamw", "optax-adam"])
def test_verdicts_are_as_expected(name, capsys):
    pytest.importorskip(name.partition("-")[0])
    expect = str(CENSUS / "expectations.toml")
    code = main(["run", "--backend", name, "--profile", "quick", "--jobs", "1", "--summary", "--expect", expect])
    assert code == 0, capsys.readouterr().out


def test_every_expectation_is_a_finding_or_about_the_interface():
    findings = {path.stem for path in FINDINGS}
    for entry in EXPECTED:
        about = PROPERTIES[entry["property"]].about
        assert entry["reason"] in findings or (entry["reason"], about) == ("interface", "interface"), entry


def test_backends_of_expectations_exist():
    frameworks = published().keys()
    for backend in {entry["backend"] for entry in EXPECTED}:
        assert backend in frameworks or backend.startswith("*"), backend


@pytest.mark.parametrize("path", sorted((CENSUS / "findings").glob("*.py")), ids=lambda path: path.stem)
def test_a_finding_says_what_was_measured(path):
    title, _, text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")
    assert title
    assert text


def test_the_page_has_every_optimizer_and_finding(tmp_path, monkeypatch):
    """The page that is in the documentation is one that `page` writes for what is expected today."""
    text = (ROOT / "docs" / "census.md").read_text(encoding="utf-8")
    for name in published():
        assert f"| {name} |" in text or name.endswith(":capturable"), name
    monkeypatch.syspath_prepend(str(CENSUS))
    page = pytest.importorskip("page")
    try:
        for path in FINDINGS:
            title, words, code = page._parts(path.read_text(encoding="utf-8"))
            assert f"### {title.removesuffix('.')}" in text
            assert words in text
            assert code in text
    finally:
        for name in ("page", "judge", "programs"):
            sys.modules.pop(name, None)
