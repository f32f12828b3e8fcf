"""What torch and JAX refuse to load, and that they are unchanged after it."""

import numpy as np
import pytest

from setadam_core import init
from setadam_core.interchange import pack


def form(t=3, **changes):
    states = {"0": init(np.ones((2, 3), np.float32))._replace(t=t), "1": init(np.ones(4, np.float32))._replace(t=t)}
    return pack(states) | changes


BAD = {
    "a shape": ({"0/exp_avg": np.zeros((3, 2), np.float32)}, ValueError, r"exp_avg of '0' must have shape \(2, 3\)"),
    "a dtype": ({"1/exp_avg_sq": np.zeros(4)}, TypeError, "exp_avg_sq of '1' must have dtype float32, got float64"),
    "a name": (pack({"2": init(np.ones(1))}), KeyError, "there is no param '2' for this state"),
}


@pytest.mark.parametrize("kind", BAD)
def test_torch(kind):
    torch = pytest.importorskip("torch")
    from setadam_torch import SETAdam, load_neutral, to_neutral

    changes, error, message = BAD[kind]
    optimizer = SETAdam([torch.ones(2, 3), torch.ones(4)])
    with pytest.raises(error, match=message):
        load_neutral(optimizer, form(**changes))
    assert not optimizer.state
    with pytest.raises(ValueError, match="names must be 2 different ones"):
        to_neutral(optimizer, names=["a", "a"])
    load_neutral(optimizer, form())
    assert to_neutral(optimizer)["1/step"] == 3


@pytest.mark.parametrize("kind", BAD)
def test_jax(kind):
    jax = pytest.importorskip("jax")
    from setadam_jax import load_neutral, set_adam, to_neutral

    changes, error, message = BAD[kind]
    state = set_adam(0.1).init([jax.numpy.ones((2, 3)), jax.numpy.ones(4)])
    with pytest.raises(error, match=message):
        load_neutral(state, form(**changes))
    assert to_neutral(state)["0/step"] == 0
    assert to_neutral(load_neutral(state, form()))["1/step"] == 3
    with pytest.raises(ValueError, match="all parameters must have taken the same number of steps"):
        load_neutral(state, form() | {"0/step": np.array(2)})


def test_torch_parameters_without_a_gradient_yet():
    torch = pytest.importorskip("torch")
    from setadam_torch import SETAdam, to_neutral

    optimizer = SETAdam([("w", torch.ones(2, dtype=torch.complex64)), ("b", torch.ones(3, dtype=torch.bfloat16))])
    made = to_neutral(optimizer)
    assert {k: (x.dtype.name, x.shape) for k, x in made.items() if "exp_avg_sq" in k} == {
        "w/exp_avg_sq": ("float32", (2, 2)),
        "b/exp_avg_sq": ("float32", (3,)),
    }
    assert made["w/step"] == 0
