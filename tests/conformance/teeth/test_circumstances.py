"""Faults that show only in one class of the table of dimensions, or where two meet."""

from itertools import combinations

from setadam_conformance.cases.dimensions import TABLE
from setadam_conformance.teeth.circumstances import Seeded, groups, seeded
from setadam_conformance.teeth.selftest import Rejections, SelftestResult, markdown, selftest


def test_there_is_a_fault_for_each_class_and_each_pair_of_dimensions():
    assert set(groups()) == {*((name,) for name in TABLE), *combinations(TABLE, 2)}
    faults = list(seeded())
    assert len(faults) > 4900
    assert len({fault.name for fault in faults}) == len(faults)


def test_the_fault_of_every_class_is_rejected():
    """`test_selftest.py` tries those of pairs."""
    faults = [fault for group, faults in groups().items() if len(group) == 1 for fault in faults]
    assert len(faults) > 100
    assert [fault.name for fault in faults if not fault.is_rejected()] == []


def test_a_fault_where_classes_cannot_meet_is_not_rejected():
    """The check can fail: this circumstance never occurs."""
    assert not Seeded((("lr", "0"), ("decay", "decoupled, 1-ηλ < 0"))).is_rejected()


def test_the_selftest_tries_them_as_a_part_of_its_own():
    result = selftest("quick", jobs=1, parts=("circumstances",), brief=True)
    assert set(result.circumstances) == set(groups())
    assert result.unseen == []
    assert result.sound
    assert "| tau | 1 of 1 | 21 of 21 |" in markdown(result)


def test_one_that_is_not_rejected_is_named():
    result = SelftestResult("quick", circumstances={("tau", "t"): Rejections(2, ["tau 0 with t 0"])})
    assert not result.sound
    assert "Not rejected: tau 0 with t 0." in markdown(result)
    assert "| tau | 0 of 0 | 1 of 2 |" in markdown(result)
