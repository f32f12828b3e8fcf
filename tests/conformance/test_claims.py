"""Claims that change what a backend gets: fixed hyperparameters, narrow moments, step counts that it can hold."""

from dataclasses import replace

import numpy as np
import pytest

from setadam_conformance.cases.case import Case, fresh_layer
from setadam_conformance.cases.claimed import as_claimed
from setadam_conformance.cases.dimensions import classes, hyperparameter_classes
from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.cases.strategies import defaults
from setadam_conformance.judging import oracle
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import ADAM, ADAMW, Capabilities
from setadam_conformance.running.backends import Source
from setadam_conformance.running.examples import examples
from setadam_conformance.running.plan import PROFILES, plan

ANY = Capabilities(dtypes=tuple(FORMATS))
OF_ADAM = replace(ANY, options=frozenset({"weight_decay", "maximize", "empty", "many"}), fixed=ADAM)


def case_of(dtype="float32", t=3, **hp):
    layer = fresh_layer(np.ones(4, FORMATS[dtype].numpy), np.ones(4, FORMATS[dtype].numpy))
    return Case(dtype, (replace(layer, v=layer.v + layer.v.dtype.type(1.01)),), t, defaults(**hp))


@pytest.mark.parametrize("fixed", [ADAM, ADAMW], ids=["adam", "adamw"])
def test_every_example_has_the_fixed_hyperparameters(fixed):
    claims = replace(ANY, fixed=fixed)
    source = Source("x", "x", "x:x")
    cells = plan({source: claims}, profile=PROFILES["quick"], dtypes=("float32",))
    assert {cell.property for cell in cells} > {"one-step", "circumstances", "coordinates-are-independent"}
    for cell in cells:
        if not PROPERTIES[cell.property].is_long:
            for case in examples(cell, claims):
                assert {name: case.hp[name] for name in fixed} == dict(fixed)


def test_properties_of_what_is_fixed_are_not_concerned():
    concerned = {name for name, prop in PROPERTIES.items() if prop.concerns(OF_ADAM, "float32")}
    assert {"one-step", "weight-decay", "maximize", "sign", "circumstances"} <= concerned
    assert not {"adam-identity", "nan-and-infinity", "concatenation-matters", "layer-axes"} & concerned
    assert "coordinates-are-independent" in concerned
    assert not PROPERTIES["coordinates-are-independent"].concerns(ANY, "float32")


def test_a_table_has_the_classes_of_what_is_fixed():
    found = classes(replace(OF_ADAM, fixed={**ADAM, "lr": 0.05}), tuple(FORMATS))
    assert (found["cos_power"], found["tau"], found["eps_is"], found["lr"]) == (
        ("0",),
        ("0",),
        ("outside",),
        ("below 1",),
    )
    assert found["decay"] == ("none", "coupled", "coupled, above ½")
    assert hyperparameter_classes(defaults(**ADAMW))["decay"] == "none"


def test_step_counts_that_cannot_be_held_are_not_tried():
    claims = replace(ANY, largest_t=2**24)
    assert classes(claims, ("float32",))["t"] == ("0", "1 to 9", "10 to 10⁵")
    assert as_claimed(case_of(t=10**9), claims).t == 2**24 - 1


@pytest.mark.parametrize("dtype", FORMATS)
def test_moments_are_in_the_claimed_format(dtype):
    claims = replace(ANY, moments="parameter")
    case = as_claimed(case_of(dtype), claims)
    assert case.layers[0].v.dtype == FORMATS[dtype].numpy
    assert float(case.layers[0].v[0]) == float(FORMATS[dtype].numpy.type(1.01))


def test_a_moment_beyond_a_narrow_format_becomes_its_largest_number():
    claims = replace(ANY, moments="parameter")
    case = case_of("float16")
    v = np.array([1e6, np.inf, np.nan, 1], np.float32)
    narrow = as_claimed(replace(case, layers=(replace(case.layers[0], v=v),)), claims).layers[0].v
    assert np.array_equal(narrow, np.array([65504, np.inf, np.nan, 1], np.float16), equal_nan=True)


def test_a_case_that_fits_stays_the_same_object():
    case = case_of()
    assert as_claimed(case, ANY) is case


def test_decay_that_is_not_claimed_is_zero():
    assert as_claimed(case_of(weight_decay=0.1, decoupled_weight_decay=True), OF_ADAM).hp["weight_decay"] == 0.1
    without = replace(OF_ADAM, options=frozenset())
    assert as_claimed(case_of(weight_decay=0.1, decoupled_weight_decay=True), without).hp["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("corrections", "wider"),
    [("accurate", 1), ("cancelling-in-float64", 1.001), ("cancelling", 1000)],
)
def test_a_correction_widens_the_first_step_by_what_cancels(corrections, wider):
    """At β₂ = 0.999 and t = 1, 1 - β**t loses three digits: of float32 if it is formed there, and of double."""
    case = as_claimed(case_of(t=0), OF_ADAM)
    (layer,) = case.layers
    bounds = [
        oracle.parameter(case, replace(layer, param=layer.param * 0), layer.m + 0.1, layer.v, claims).bound[0]
        for claims in (OF_ADAM, replace(OF_ADAM, corrections=corrections))
    ]
    assert wider / 4 < bounds[1] / bounds[0] <= wider


def test_a_nan_leaves_other_coordinates_judged_only_without_down_scaling_and_translation():
    case = case_of()
    m, v = case.layers[0].m + 0.1, case.layers[0].v.copy()
    v[0] = np.nan
    for claims, judged in ((ANY, 0), (OF_ADAM, 3)):
        fitted = as_claimed(case, claims)
        assert np.sum(oracle.parameter(fitted, fitted.layers[0], m, v, claims).judged) == judged


def test_options_of_fixed_hyperparameters_are_allowed():
    assert OF_ADAM.allows(frozenset({"cos_power", "eps_inside_sqrt", "many"}))
    assert not OF_ADAM.allows(frozenset({"complex"}))
