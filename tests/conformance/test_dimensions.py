"""The table of dimensions: rows that cover it, and the cases that are made of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from setadam_conformance.cases.case import Case, LayerCase, case_from_json, case_to_json
from setadam_conformance.cases.covering import Coverage, design
from setadam_conformance.cases.dimensions import TABLE, classes, is_possible, plainest
from setadam_conformance.cases.reading import classes_in, classes_of
from setadam_conformance.cases.rows import case_of
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
    assert len(rows) < (20 if strength == 1 else 170)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_case_has_the_classes_of_its_row_and_needs_only_their_options(seed):
    for i, row in enumerate(design(CLAIMS, ALL, 2, seed)):
        case = case_of(row, i)
        assert classes_of(case, row["place"]) == row
        assert case.needs <= frozenset().union(*(TABLE[name].classes[c] for name, c in row.items()))


def test_what_is_read_does_not_depend_on_what_a_case_says_of_itself():
    row = {**plainest(), "magnitude": "wide", "least": "last", "layers": "4 to 9", "place": "last"}
    case = case_of(row, 3)
    silent = replace(case, extra={})
    assert classes_in(silent) == classes_in(case)
    assert classes_of(silent, "last") == row
    first = classes_of(silent, "first")
    assert (first["magnitude"], first["place"], first["layers"]) == ("near 1", "first", "4 to 9")
    assert [each["place"] for each in classes_in(case_of(plainest(), 3))] == ["first"]


def _read(grad, v=None, t=5, **fields):
    """The classes of one layer with this g and v, and m = 1."""
    grad = np.array(grad, np.float32)
    v = np.ones(grad.shape, np.float32) if v is None else np.array(v, np.float32)
    layer = LayerCase(np.ones_like(grad), grad, np.ones_like(v), v)
    return classes_of(Case("float32", (replace(layer, **fields),), t), "first")


@pytest.mark.parametrize(
    ("dimension", "expected", "found"),
    [
        ("least", "first", _read([1, 2, 3], [1, 2, 2])),
        ("least", "last", _read([3, 2, -1], [4, 2, 1])),
        ("least", "tied", _read([1, -1, 2], [1, 1, 2])),
        ("least", "anywhere", _read([1, 2, 3], [2, 1, 2])),  # g is least at one place, v at another
        ("least", "anywhere", _read([2, 1, 3], [2, 1, 2])),
        ("least", "first", _read([0, 0, 0], [1, 2, 2])),
        ("least", "first", _read([1, np.nan, 3], [2, 1, 3])),  # a coordinate that is not finite is not compared
        ("least", "anywhere", _read([0, 0, 3], [0, 0, 3])),
        ("values", "normal", _read([1, 2, 3])),
        ("values", "some zeros", _read([0, 2, 3])),
        ("values", "constant", _read([2, 2, 2])),
        ("values", "one dominant", _read([1, 2, 300])),
        ("values", "g = 0", _read([0, 0, 0])),
        ("values", "g, m, v = 0", _read([0, 0], [0, 0], m=np.zeros(2, np.float32))),
        ("magnitude", "near 1", _read([1, 2, 3])),
        ("magnitude", "small", _read([1e-9, 1e-9])),
        ("magnitude", "large", _read([1e9, 1e9])),
        ("magnitude", "wide", _read([1e-3, 1, 100])),
        ("magnitude", "near 1", _read([0, 0])),  # that of m
        ("theta", "zero", _read([1, 2], param=np.zeros(2, np.float32))),
        ("theta", "large", _read([1, 2], param=np.array([1, -99], np.float32))),
        ("shape", "a block and a tail", _read(np.ones(65))),
        ("shape", "hundreds", _read(np.ones(70))),
        ("shape", "vector", _read(np.ones(62))),
        ("shape", "thousands", _read(np.ones((48, 100)), axes=(0,))),
        ("shape", "matrix", _read(np.ones((3, 2)))),
    ],
)  # fmt: skip
def test_what_a_class_of_arrays_is(dimension, expected, found):
    assert found[dimension] == expected


def test_classes_that_hide_others_count_only_for_themselves():
    allowed = classes(CLAIMS, ALL)
    row = {**plainest(), "special": "g NaN", "tau": "0"}
    reached = Coverage(allowed, [row])
    assert reached.met_classes == set(row.items())  # m and v show them
    assert Coverage(allowed, [{**row, "shape": "empty"}]).met_classes == {("shape", "empty")}
    assert all(("special", "g NaN") in pair for pair in reached.met_pairs)
    assert len(reached.met_pairs) == len(TABLE) - 1
    assert (("tau", "0"), ("special", "none")) in Coverage(allowed, [{**row, "special": "none"}]).met_pairs


def test_a_row_that_its_arrays_cannot_show_is_not_possible():
    one = {**plainest(), "special": "g NaN", "shape": "()"}
    assert is_possible(one)
    assert not is_possible({**one, "magnitude": "small"})
    assert is_possible({**one, "magnitude": "small", "t": "1 to 9"})
    assert not is_possible({**one, "values": "g = 0", "t": "1 to 9"})


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
