"""The whole self-test at quick budgets: what `setadam-conformance selftest` runs, and what it says."""

import pytest

from setadam_conformance.teeth import FAULTS, KIT_FAULTS, VARIANTS
from setadam_conformance.teeth.selftest import SelftestResult, markdown, selftest


@pytest.fixture(scope="module")
def result():
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


def test_tables_name_everything(result):
    text = markdown(result)
    for name in (*FAULTS, *VARIANTS, *KIT_FAULTS):
        assert f"| {name} |" in text


def test_nothing_tried_is_not_sound():
    assert not SelftestResult("quick").sound
    survived = SelftestResult("quick", {"a": {"float32": {}}}, {"b": []}, {}, {"": []})
    assert survived.survivors == ["a"]
    assert not survived.sound
    failing_kit = SelftestResult("quick", {"a": {"float32": {"one-step": 1.0}}}, {"b": []}, {}, {"": ["domain"]})
    assert failing_kit.unnoticed == [""]
    assert SelftestResult("quick", failing_kit.faults, {"b": []}, {}, {"": [], "x": ["domain"]}).sound
