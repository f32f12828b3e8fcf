"""Every number and switch of Hyperparameters: the allowed values, and the errors."""

import dataclasses
import math

import numpy as np
import pytest

from setadam_core import Hyperparameters

NUMBERS = ("lr", "beta1", "beta2", "eps", "tau", "weight_decay", "cos_power")
SWITCHES = ("decoupled_weight_decay", "maximize", "eps_inside_sqrt")
RANGES = {
    "lr": ("finite and ≥ 0", [0, 1, 1e9], [-1e-300, -1]),
    "beta1": ("in [0, 1)", [0, 0.5, math.nextafter(1, 0)], [-1e-9, 1, 1.5]),
    "beta2": ("in [0, 1)", [0, 0.5, math.nextafter(1, 0)], [-1e-9, 1, 1.5]),
    "eps": ("finite and > 0", [5e-324, 1e-8, 10], [0, -0.0, -1e-8]),
    "tau": ("in [0, 1)", [0, 0.5, math.nextafter(1, 0)], [-0.5, 1, 2]),
    "weight_decay": ("finite and ≥ 0", [0, 0.1], [-0.1]),
    "cos_power": ("finite and ≥ 0", [0, 1, 2, 4.5], [-2]),
}


def test_defaults_are_the_papers() -> None:
    assert dataclasses.asdict(Hyperparameters()) == {
        "lr": 1e-3,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "tau": 0.5,
        "weight_decay": 0.0,
        "decoupled_weight_decay": False,
        "maximize": False,
        "cos_power": 2,
        "eps_inside_sqrt": True,
    }


@pytest.mark.parametrize("name", NUMBERS)
def test_range(name: str) -> None:
    allowed, good, bad = RANGES[name]
    for value in good:
        assert getattr(Hyperparameters(**{name: value}), name) == value
    for value in [*bad, math.nan, math.inf, -math.inf]:
        with pytest.raises(ValueError) as error:
            Hyperparameters(**{name: value})
        assert str(error.value) == f"{name} must be {allowed}, got {value!r}"


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", ["0.5", None, 0.5j, True, np.True_, np.complex64(1), np.str_("1"), [0.5], np.ones(1)], ids=repr
)
def test_number_that_is_none(name: str, value: object) -> None:
    with pytest.raises(TypeError) as error:
        Hyperparameters(**{name: value})
    assert str(error.value) == f"{name} must be a real number, got {value!r}"


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", [0, 1, None, "yes", np.float64(1), np.array(True)], ids=repr)
def test_switch_that_is_none(name: str, value: object) -> None:
    with pytest.raises(TypeError) as error:
        Hyperparameters(**{name: value})
    assert str(error.value) == f"{name} must be True or False, got {value!r}"


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", [True, False])
def test_switches_of_numpy(name: str, value: bool) -> None:
    assert getattr(Hyperparameters(**{name: np.bool_(value)}), name) is value


def test_an_int_beyond_every_float() -> None:
    with pytest.raises(ValueError, match=r"^lr must be finite and ≥ 0, got 1000"):
        Hyperparameters(lr=10**400)


def test_keyword_only_and_frozen() -> None:
    with pytest.raises(TypeError):
        Hyperparameters(1e-3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Hyperparameters().lr = 1.0


def test_equal_settings_are_equal_and_hash_alike() -> None:
    one, other = Hyperparameters(lr=1, cos_power=2), Hyperparameters(lr=np.float32(1), cos_power=2.0)
    assert one == other
    assert hash(one) == hash(other)
    assert all(type(getattr(other, name)) is float for name in NUMBERS)


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "cos_power"])
def test_zero_dimensional_array_passes_unread(name: str) -> None:
    value = np.asarray(-1.0)  # out of every range: it is not looked at
    assert getattr(Hyperparameters(**{name: value}), name) is value


def test_cos_power_decides_the_code_and_is_no_array() -> None:
    with pytest.raises(TypeError, match=r"^cos_power must be a real number, got array\(2\.\)$"):
        Hyperparameters(cos_power=np.asarray(2.0))
