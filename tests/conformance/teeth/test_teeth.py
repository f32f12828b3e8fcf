"""The parts of the self-test: faults, correct variants, and faults of the kit. `test_selftest.py` runs all of them."""

import numpy as np
import pytest

from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Adapter
from setadam_conformance.running.runner import check
from setadam_conformance.teeth import FAULTS, KIT_FAULTS, VARIANTS
from setadam_conformance.teeth.examples import cells, examples, rejected
from setadam_conformance.teeth.faults.declare import ALL_DTYPES, kind
from setadam_conformance.teeth.kit.checks import failing
from setadam_conformance.teeth.reference import Reference, rows, unrows
from setadam_conformance.teeth.sampler import worst

KINDS = {
    "epsilon", "bias correction", "down-scaling", "down-translating", "moments", "update", "weight decay",
    "state order", "layout", "block tails", "aliasing", "error handling", "written before a refusal", "reload",
    "whole backend", "Adam", "stochastic rounding", "specified random bits",
}  # fmt: skip


def test_there_are_enough_of_each_kind():
    assert len(FAULTS) >= 80
    assert {fault.kind for fault in FAULTS.values()} == KINDS
    assert len(VARIANTS) >= 12
    assert len(KIT_FAULTS) >= 12
    for fault in FAULTS.values():
        assert fault.what
        assert set(fault.dtypes) <= set(ALL_DTYPES)
        assert fault.why or fault.dtypes == ALL_DTYPES, f"{fault.name} does not say why it is not in all dtypes"


def test_all_are_adapters():
    for each in (*FAULTS.values(), *VARIANTS.values()):
        assert isinstance(each.adapter(), Adapter)


def test_a_misspelt_override_is_refused():
    with pytest.raises(ValueError, match="gama"):
        kind("down-scaling")("misspelt", "", gama=lambda s, c, v: v)
    with pytest.raises(ValueError, match="no-op"):
        kind("whole backend")("no-op", "")


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 2), (1, 2), (0, 1, 2)])
def test_rows_and_back(axes):
    x = np.arange(24.0).reshape(2, 3, 4)
    flat = rows(x, axes)
    assert flat.shape[1] == np.prod([x.shape[axis] for axis in axes], dtype=int)
    assert np.array_equal(unrows(flat, x.shape, axes), x)


def test_examples_are_those_of_the_runner(verdicts):
    """A fault gets the same examples as a backend."""
    for name in ("one-step", "scale-free", "sign"):
        (cell,) = (c for c in cells("quick", "float32") if c.property == name)
        ran = verdicts(Reference(), properties=(name,))[name]
        assert ran.status == "pass"
        assert ran.examples == len(examples(cell))


def _heavy(*values):
    return [pytest.param(value, marks=pytest.mark.heavy) for value in values]


@pytest.mark.parametrize(
    "name",
    ["bias-float32-power", "half-updated", *_heavy("no-op", "gamma-guard-1e-20", "update-transposed")],
)
def test_the_runner_rejects_what_the_selftest_says(name):
    """The self-test, which does not shrink failures, and the runner, which does, reach one verdict on each cell."""
    planned = [(PROPERTIES[cell.property], cell) for cell in cells("quick", "float32")]
    ran = [check(prop, FAULTS[name].adapter(), cell) for prop, cell in planned]
    by_runner = {cell.property for cell in ran if cell.status == "fail"}
    counted = {cell.property for _, cell in planned if rejected(FAULTS[name].adapter(), cell)[0]}
    assert by_runner
    assert by_runner == counted


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_no_sampled_layer_rejects_a_variant(dtype):
    for name, variant in VARIANTS.items():
        ratio, beyond = worst(variant.adapter(), dtype, 200, seed=3)
        assert not beyond, (name, ratio)


def test_the_kit_passes_its_own_checks():
    assert failing() == []


def test_every_fault_of_the_kit_is_undone():
    from setadam_conformance.judging import judge, oracle

    before = [judge.judge, judge.compare, oracle.moments, oracle.parameter, oracle.chain]
    for fault in KIT_FAULTS.values():
        with fault.applied():
            now = [judge.judge, judge.compare, oracle.moments, oracle.parameter, oracle.chain]
            assert now != before
        assert [judge.judge, judge.compare, oracle.moments, oracle.parameter, oracle.chain] == before
