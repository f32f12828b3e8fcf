"""The self-test at quick budgets: what `setadam-conformance selftest` runs, and what it says."""

from pathlib import Path

import pytest

from setadam_conformance.teeth import FAULTS, KIT_FAULTS, VARIANTS
from setadam_conformance.teeth.selftest import SelftestResult, markdown, selftest

DOCUMENTED = Path(__file__).parents[3] / "docs" / "teeth.md"


pytestmark = pytest.mark.xdist_group("selftest")  # one worker: each would run the fixture again


@pytest.fixture(scope="module", params=[pytest.param("brief"), pytest.param("whole", marks=pytest.mark.heavy)])
def result(request):
    """The self-test in quick's examples: brief, in this process, or as the command runs it."""
    if request.param == "brief":
        return selftest("quick", jobs=1, layers=100, brief=True)
    return selftest("quick")


def test_every_fault_is_rejected(result):
    assert set(result.faults) == set(FAULTS)
    assert result.survivors == []


def test_no_variant_is_rejected(result):
    assert set(result.variants) == set(VARIANTS)
    assert result.accused == []


def test_every_fault_of_the_kit_is_noticed(result):
    assert set(result.kit) == {"", *KIT_FAULTS}
    assert result.unnoticed == []


def test_the_tables_have_every_name(result):
    text = markdown(result)
    for name in (*FAULTS, *VARIANTS, *KIT_FAULTS):
        assert f"| {name} |" in text


def test_the_documented_tables_are_of_these_faults_and_variants():
    text = DOCUMENTED.read_text(encoding="utf-8")
    for name, fault in FAULTS.items():
        assert f"| {name} | {fault.what} |" in text
    for name, variant in VARIANTS.items():
        assert f"| {name} | {variant.what} |" in text
    for name, fault_of_kit in KIT_FAULTS.items():
        assert f"| {name} | {fault_of_kit.what} |" in text
    assert f"## {len(FAULTS)} seeded faults" in text
    assert f"## {len(VARIANTS)} correct variants" in text
    assert f"## {len(KIT_FAULTS)} faults of the kit" in text
    assert "100000 sampled layers" in text


def test_survivors_rejected_variants_and_a_failing_kit_are_not_sound():
    rejected: dict[str, dict[str, dict[str, float]]] = {"a": {"float32": {"one-step": 1.0}}}
    assert not SelftestResult("quick").sound
    survived = SelftestResult("quick", faults={"a": {"float32": {}}})
    assert survived.survivors == ["a"]
    assert not survived.sound
    assert not SelftestResult("quick", variants={"b": ["one-step float32: 1 of 36"]}).sound
    failing_kit = SelftestResult("quick", faults=rejected, kit={"": ["domain"]})
    assert failing_kit.unnoticed == [""]
    assert not failing_kit.sound
    assert SelftestResult("quick", faults=rejected, variants={"b": []}, kit={"": [], "x": ["domain"]}).sound
