"""γ of a layer from its parts, against the specification's γ of the whole."""

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setadam_core import Hyperparameters
from setadam_core.layers import check_layer
from setadam_core.parts import Parts, combine
from setadam_core.spec import down_scaling


def part(v):
    """The statistics of one part, in float64."""
    v = np.asarray(v, dtype=np.float64)
    if v.size == 0:
        return (0.0, 0.0, 0.0, np.inf)
    high = v.max()
    r = v / high if high != 0 else v
    return (high, r.sum(), (r * r).sum(), v.min())


def whole(v, power=2.0):
    v = np.asarray(v, dtype=np.float64)
    layer = check_layer(v, v, v, v, 1, Hyperparameters(), None)
    return float(down_scaling(v, layer, power)[0]), v.min()


def of_parts(pieces, size, power=2.0, xp=np):
    return combine(Parts(*(xp.asarray(column) for column in np.array([part(p) for p in pieces]).T)), size, power)


@settings(deadline=None)
@given(
    exponents=st.lists(st.integers(-150, 150), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    power=st.sampled_from([0.0, 1.0, 2.0, 4.0]),
)
def test_any_cut_gives_the_specification(exponents, cuts, power):
    v = np.array([(1 + i % 3) * 10.0**e for i, e in enumerate(exponents)])
    gamma, low = of_parts(np.split(v, sorted(cuts)), v.size, power)
    expected, least = whole(v, power)
    # Sums of d terms ≥ 0 and a dozen roundings on either side; the power multiplies by up to 2.
    assert abs(gamma - expected) <= 2 * (4 * v.size + 24) * 2.0**-53 * expected
    assert low == least


def test_nothing_but_zeros_and_empty_parts():
    gamma, low = of_parts([[0.0, 0.0], [], [0.0]], 3)
    assert (gamma, low) == (1.0, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_part_spoils_its_layer_alone(bad):
    with np.errstate(invalid="ignore"):
        rows = np.array([[part([1.0, 2.0]), part([1.0])], [part([bad, 1.0]), part([3.0])]])
        gamma, _ = combine(Parts(*np.moveaxis(rows, -1, 0)), np.array([4, 2]), 2.0)
    assert np.isnan(gamma[0])
    assert abs(gamma[1] - 0.8) <= 12 * 2.0**-53  # a dozen roundings


def test_pure_array_api():
    gamma, low = of_parts([[1.0], [3.0]], 2, xp=array_api_strict)
    assert abs(float(gamma) - 0.8) <= 12 * 2.0**-53
    assert float(low) == 1.0
