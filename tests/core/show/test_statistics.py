"""The share of coordinates on the floor: its definition, and that it goes with ε and with the scale as w does."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from setadam_core import Hyperparameters, State, trace
from setadam_core.layers import check_layer
from setadam_core.show.statistics import layer_statistics

V = hnp.arrays(np.float64, st.integers(1, 12), elements=st.just(0.0) | st.floats(1e-12, 1.0))
EPS = st.integers(-14, -2).map(lambda n: 10.0**n)
T = st.integers(1, 1000)


def share(v: Any, t: int = 1, **options: Any) -> float:
    hp = Hyperparameters(**options)
    return layer_statistics(v, t, check_layer(v, v, v, v, t, hp, None), hp)["floor_share"]


@given(V, T, EPS, st.floats(0, 0.999), st.just(0.0) | st.floats(1e-3, 0.999))  # v/β₂ must be finite
def test_a_coordinate_is_on_the_floor_where_eps_is_the_larger_term(
    v: np.ndarray, t: int, eps: float, tau: float, beta2: float
) -> None:
    """γv̂ ≤ ε, which is w ≤ √2 √ε. Where the two are equal to a dozen roundings, rounding decides."""
    hp = Hyperparameters(eps=eps, tau=tau, beta2=beta2)
    state = State(v, v / beta2 if beta2 else v, t - 1)
    now = trace(v, 0 * v if beta2 else np.sqrt(v), state, hp)  # whose new v is the v given, to rounding
    v_hat = now.v_scaled / (1 - beta2**t)
    low, high = (np.mean(v_hat <= eps * (1 + x)) for x in (-1e-9, 1e-9))  # 1 - β₂ᵗ cancels, to 1e-13 at β₂ = 0.999
    assert low <= share(now.v, t, eps=eps, tau=tau, beta2=beta2) <= high


@given(V, T, EPS, st.booleans())
def test_it_rises_with_eps(v: np.ndarray, t: int, eps: float, inside: bool) -> None:
    assert share(v, t, eps=eps, eps_inside_sqrt=inside) <= share(v, t, eps=10 * eps, eps_inside_sqrt=inside)


@given(V, T, EPS, st.integers(-20, 20))
def test_it_does_not_depend_on_scale(v: np.ndarray, t: int, eps: float, n: int) -> None:
    """With ε in units of the gradient squared: a power of four changes no mantissa, of the root neither."""
    assert share(v * 4.0**n, t, eps=eps * 4.0**n) == share(v, t, eps=eps)


def test_its_ends() -> None:
    assert share(np.zeros(3)) == 1
    assert share(np.ones(3)) == 0
    assert share(np.array([0.0, 1.0])) == 0.5
    assert share(np.array([1.0, 1.0]), eps_inside_sqrt=False, eps=1.0) == 0  # √v̂ = √1000 at t = 1
    assert math.isnan(share(np.array([0.0, math.nan])))


def test_each_layer_of_a_stack_has_its_own() -> None:
    v, hp = np.array([[0.0, 0.0], [0.0, 1.0]]), Hyperparameters()
    found = layer_statistics(v, 1, check_layer(v, v, v, v, 1, hp, (1,)), hp)
    assert found["floor_share"].tolist() == [1, 0.5]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_exact_on_the_boundary(dtype: Any) -> None:
    """γ = 1 and v̂ = ε: the coordinate is on the floor."""
    v = np.full(4, 0.25, dtype)
    assert share(v, eps=0.25, beta2=0.0) == 1
    assert share(v, eps=0.2499, beta2=0.0) == 0
