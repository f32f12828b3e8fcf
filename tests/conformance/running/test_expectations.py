"""Which expectations are outdated: those that no run can match."""

from datetime import date

import pytest

from setadam_conformance.protocol import Capabilities
from setadam_conformance.running.backends import Source
from setadam_conformance.running.expectations import Expectation, ExpectationError, outdated, read

MINE = Source("mine:fast", "mine", "mine:Fast")
CLAIMS = {MINE: Capabilities(dtypes=("float32",), options=frozenset({"many"}))}


def entry(property_name="*", backend="*", dtype="*", used=0):
    return Expectation(property_name, backend, dtype, "xfail", "known", date(2999, 1, 1), used)


@pytest.mark.parametrize(
    ("given", "stale"),
    [
        (entry("one-step", "mine:fast", used=1), False),
        (entry("sign", "mine:fast"), False),  # --property or the profile may have left it out
        (entry("sign", "mine:*", "float32"), False),
        (entry("sign", "mine:fast", "float64"), True),  # a dtype that it does not claim
        (entry("weight-decay", "mine:fast"), True),  # an option that it does not claim
        (entry("sign", "mine:*", "float64"), True),
        (entry("sign", "spec:numpy", "float64"), False),  # of a run with another backend
        (entry("sign", "*", "float64"), False),
        (entry("sign", "elsewhere:Adapter"), False),
        (entry("sing", "elsewhere:Adapter"), True),  # a property that does not exist
        (entry("sign", "spec:numpy", "float63"), True),
    ],
)
def test_an_expectation_is_outdated_if_no_run_can_match_it(given, stale):
    assert outdated([given], CLAIMS) == [given] * stale


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("expect = 3", "array of tables"),
        ("expect = [3]", "array of tables"),
        ("[[expects]]", "array of tables"),
        ('[[expect]]\nstatus = "skip"\nreason = "r"\nexpires = 2030-01-01\nproperty = 3', "property must be a name"),
        (
            '[[expect]]\nstatus = "skip"\nreason = "r"\nexpires = 2030-01-01\ndtype = []',
            "dtype must be a name",
        ),
    ],
)
def test_what_is_not_a_list_of_expectations_is_refused(tmp_path, text, said):
    (tmp_path / "expect.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ExpectationError, match=said):
        read(tmp_path / "expect.toml")


def test_the_file_may_begin_with_a_mark_and_have_greek_letters(tmp_path):
    text = '[[expect]]\nstatus = "skip"\nreason = "τ near 1"\nexpires = 2030-01-01\n'
    (tmp_path / "expect.toml").write_text(text, encoding="utf-8-sig")
    assert [e.reason for e in read(tmp_path / "expect.toml")] == ["τ near 1"]
    (tmp_path / "expect.toml").write_text(text, encoding="utf-16")
    with pytest.raises(ExpectationError, match="must be in UTF-8, got UTF-16"):
        read(tmp_path / "expect.toml")
