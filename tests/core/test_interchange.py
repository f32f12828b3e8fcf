"""The neutral form: its contents, and the errors for wrong contents."""

import numpy as np
import pytest

from setadam_core import State, init
from setadam_core.interchange import check_names, pack, unpack


def test_the_form_is_what_its_documentation_says():
    state = State(np.ones((2, 3), np.float32), np.full((2, 3), 2.0, np.float32), 7)
    form = pack(
        {"a/b.0": state, "z": init(np.ones(4, np.complex64))}, [{"lr": 0.1, "betas": (0.5, 0.75), "fused": None}]
    )
    assert {key: (x.dtype.name, x.shape) for key, x in form.items()} == {
        "a/b.0/exp_avg": ("float32", (2, 3)),
        "a/b.0/exp_avg_sq": ("float32", (2, 3)),
        "a/b.0/step": ("int64", ()),
        "z/exp_avg": ("float32", (4, 2)),
        "z/exp_avg_sq": ("float32", (4, 2)),
        "z/step": ("int64", ()),
        "param_groups/0/lr": ("float64", ()),
        "param_groups/0/betas": ("float64", (2,)),
    }
    states, groups = unpack(form)
    assert np.array_equal(states["a/b.0"].m, state.m)
    assert np.array_equal(states["a/b.0"].v, state.v)
    assert states["a/b.0"].t == 7
    assert groups == [{"lr": 0.1, "betas": (0.5, 0.75)}]


def test_the_form_is_a_copy():
    state = init(np.ones(3))
    form = pack({"w": state})
    state.m[...] = 5
    assert np.all(form["w/exp_avg"] == 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w/exp_avg": [1.0, 2.0, 3.0]}, "exp_avg of 'w' must be a NumPy array, got list"),
        ({"w/step": np.array(1.5)}, "step of 'w' must be a whole number ≥ 0"),
        ({"w/step": np.array([1])}, "step of 'w' must be a whole number ≥ 0"),
        ({"w/step": np.True_}, "step of 'w' must be a whole number ≥ 0"),
        ({"w/step": np.uint64(2**63)}, r"step of 'w' must be a whole number ≥ 0, and below 2\*\*63 - 1, got np.uint64"),
        (
            {"w/max_exp_avg_sq": np.ones(3)},
            r"a key must be <name>/\{exp_avg,exp_avg_sq,step\} or .* got 'w/max_exp_avg_sq'",
        ),
        ({"param_groups/2/lr": np.array(0.1)}, r"must count up from 0, got \[2\]"),
        ({"x/step": np.array(1)}, "the state of 'x' must have exp_avg, exp_avg_sq, step, but exp_avg is missing"),
    ],
)
def test_what_is_no_form_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        unpack(pack({"w": init(np.ones(3))}) | change)


def test_names_that_do_not_meet():
    check_names(["a", "b"], ["b", "a"])
    with pytest.raises(KeyError, match=r"no state for param 'c', only for 'a', 'b'"):
        check_names(["a", "b"], ["a", "c"])
    with pytest.raises(KeyError, match=r"there is no param 'b' for this state, only 'a'"):
        check_names(["a", "b"], ["a"])


def test_arrays_of_the_form_are_in_the_order_of_c():
    m = np.arange(6.0).reshape(2, 3)
    form = pack({"w": State(np.asfortranarray(m), m.T[::-1].T, 1)}, [{"betas": np.array([[0.5, 0.75]], order="F")[0]}])
    assert all(x.flags.c_contiguous for x in form.values())
    assert form["w/exp_avg"].tobytes() == m.tobytes()
    assert form["w/exp_avg_sq"].tolist() == m[:, ::-1].tolist()


def test_a_form_of_the_other_order_of_bytes():
    m = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    other = m.astype(m.dtype.newbyteorder("S"))
    states, _ = unpack(pack({"w": State(m, m, 1)}) | {"w/exp_avg": other})
    read = states["w"]
    assert read.m.dtype == np.float32
    assert read.m.dtype.isnative
    assert np.array_equal(read.m, m)
    assert pack({"w": State(other, m, 1)})["w/exp_avg"].tobytes() == m.tobytes()


@pytest.mark.parametrize("form", [None, [], "w/step", np.ones(3)], ids=repr)
def test_what_is_no_mapping(form):
    with pytest.raises(TypeError, match="a neutral form must be a mapping of names to arrays, got"):
        unpack(form)


def test_a_masked_moment():
    with pytest.raises(TypeError, match="exp_avg of 'w' must be a plain array, got MaskedArray"):
        pack({"w": State(np.ma.ones(3), np.ones(3), 1)})


@pytest.mark.parametrize("t", [1.0, True, -1, "1", None, 2**63])
def test_a_count_that_is_none(t):
    with pytest.raises(ValueError, match="step of 'w' must be a whole number ≥ 0, and below"):
        pack({"w": init(np.ones(3))._replace(t=t)})
