"""The table of dimensions: rows that cover it, and the cases that are made of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from setadam_conformance.cases.case import Case, case_from_json, case_to_json
from setadam_conformance.cases.covering import Coverage, design
from setadam_conformance.cases.dimensions import TABLE, classes, is_possible, plainest
from setadam_conformance.cases.rows import case_of, classes_of
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import OPTIONS, Capabilities
from setadam_conformance.running.backends import Source
from setadam_conformance.running.coverage import coverage, gaps
from setadam_conformance.running.plan import PROFILES, plan
from setadam_conformance.running.runner import check

ALL = ("float64", "float32", "bfloat16", "float16")
CLAIMS = Capabilities(dtypes=ALL)


@pytest.mark.parametrize("options", [OPTIONS, frozenset(), frozenset({"many", "layer_axes"})])
@pytest.mark.parametrize("dtypes", [ALL, ("float16",)])
@pytest.mark.parametrize("strength", [1, 2])
def test_every_class_or_pair_that_the_claims_allow_occurs(options, dtypes, strength):
    claims = replace(CLAIMS, options=options)
    rows = design(claims, dtypes, strength, 0)
    reached = Coverage(classes(claims, dtypes), rows)
    assert reached.met_classes == reached.classes
    assert strength == 1 or reached.met_pairs == reached.pairs
    assert all(map(is_possible, rows))
    assert len(rows) < (20 if strength == 1 else 150)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_case_has_the_classes_of_its_row_and_needs_only_their_options(seed):
    for i, row in enumerate(design(CLAIMS, ALL, 2, seed)):
        case = case_of(row, i)
        assert classes_of(case) == row
        assert case.needs <= frozenset().union(*(TABLE[name].classes[c] for name, c in row.items()))


def test_a_case_survives_json_and_follows_from_its_seed():
    row = {**plainest(), "special": "v Inf", "layers": "4 to 9", "place": "last"}
    a, b, back = case_of(row, 7), case_of(row, 7), case_from_json(case_to_json(case_of(row, 7)))
    for one, two, three in zip(a.layers, b.layers, back.layers, strict=True):
        assert np.array_equal(one.v, two.v)
        assert np.array_equal(one.v, three.v)
    assert np.isposinf(a.layers[-1].v).any()


def test_a_case_without_layers_is_refused():
    with pytest.raises(ValueError, match="at least one layer"):
        Case("float32", ())


def test_the_plainest_classes_fit_together():
    assert is_possible(plainest())
    assert not is_possible({**plainest(), "shape": "empty", "special": "g NaN"})


def _cells(adapter):
    source = Source(adapter.name, adapter.framework, "none:none")
    cells = plan(
        {source: adapter.capabilities}, profile=PROFILES["quick"], properties=("circumstances",), dtypes=("float16",)
    )
    return cells, [check(PROPERTIES["circumstances"], adapter, cell) for cell in cells]


def test_a_run_that_does_not_reach_the_table_is_vacuous(spec):
    cells, done = _cells(spec)
    whole = coverage(cells, done, {spec.name: spec.capabilities})[spec.name]
    assert (whole.pairs, whole.classes) == (whole.pairs_allowed, whole.classes_allowed)
    assert gaps({spec.name: whole}, done) == []
    done[0].rows = [row for row in done[0].rows if row["special"] != "m NaN"]
    part = coverage(cells, done, {spec.name: spec.capabilities})[spec.name]
    assert part.missing == ["special m NaN"]
    (cell,) = gaps({spec.name: part}, done)
    assert cell.status == "vacuous"
    assert "m NaN" in cell.reason


def test_the_documented_table_is_this_one():
    text = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
    for name, dimension in TABLE.items():
        assert f"| {name} | {dimension.what} | {' · '.join(dimension.classes)} |" in text
