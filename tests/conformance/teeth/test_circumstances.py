"""Faults that show only in one class of the table of dimensions, or where two meet."""

from itertools import islice

import pytest

from setadam_conformance.teeth.circumstances import Seeded, of_classes, of_pairs

CLASSES, PAIRS = list(of_classes()), list(of_pairs())


def test_there_is_a_fault_for_each_class_and_each_pair_of_dimensions():
    assert len(CLASSES) > 60
    assert len(PAIRS) > 100
    assert len({fault.name for fault in (*CLASSES, *PAIRS)}) == len(CLASSES) + len(PAIRS)


@pytest.mark.parametrize("fault", [*islice(CLASSES, 0, None, 4), *islice(PAIRS, 0, None, 8)], ids=lambda f: f.name)
def test_a_fault_is_rejected(fault):
    assert fault.is_rejected()


@pytest.mark.heavy
def test_every_fault_is_rejected():
    assert [fault.name for fault in (*CLASSES, *PAIRS) if not fault.is_rejected()] == []


def test_a_fault_where_classes_cannot_meet_is_not_rejected():
    """The check can fail: this circumstance never occurs."""
    assert not Seeded((("lr", "0"), ("decay", "decoupled, 1-ηλ < 0"))).is_rejected()
