"""The neutral form of arrays with any memory layout, through npz and safetensors, from and to each class."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

import setadam_numpy
from setadam_core import State
from setadam_core.interchange import pack, unpack


def sliced(x):
    whole = np.zeros([2 * n + 1 for n in x.shape], x.dtype)
    whole[tuple(slice(1, None, 2) for _ in x.shape)] = x
    return whole[tuple(slice(1, None, 2) for _ in x.shape)] if x.ndim else x


# Each the same values, in another place.
LAYOUTS = {
    "C": lambda x: x.copy(order="C"),
    "F": lambda x: x.copy(order="F"),
    "channels last": lambda x: np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1) if x.ndim > 1 else x,
    "transposed": lambda x: x.T.copy().T,
    "sliced": sliced,
    "backwards": lambda x: np.asarray(np.flip(np.asarray(np.flip(x)).copy())),
}
shapes = st.lists(st.integers(0, 3), max_size=4).map(tuple)  # of 0-d and empty arrays too
dtypes = st.sampled_from(["float32", "float64", "float16", "complex64", "complex128"])


@st.composite
def arrays(draw):
    """Different numbers in all places, of any shape, dtype and layout."""
    shape, dtype = draw(shapes), np.dtype(draw(dtypes))
    x = (1 + np.arange(np.prod(shape, dtype=int))).reshape(shape).astype(dtype) / 16
    if dtype.kind == "c":
        x = (x * (1 - 0.5j)).astype(dtype)
    return np.asarray(LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](np.asarray(x)))


def through_npz(form):
    file = io.BytesIO()
    np.savez(file, **form)
    file.seek(0)
    with np.load(file) as stored:
        return dict(stored)


def same(form, expected):
    """Bit for bit, in C order, with each value in its place."""
    assert form.keys() == expected.keys()
    for key, x in form.items():
        assert (x.dtype, x.shape) == (expected[key].dtype, expected[key].shape), key
        assert np.array_equal(x, expected[key]), key
        assert x.tobytes() == expected[key].tobytes(), key


def test_the_layouts_are_what_they_are_called():
    x = np.arange(24.0).reshape(2, 3, 4)
    for layout in LAYOUTS.values():
        assert np.array_equal(layout(x), x)
    strides = {name: layout(x).strides for name, layout in LAYOUTS.items()}
    assert strides["C"] == (96, 32, 8)
    assert strides["F"] == strides["transposed"] == (8, 16, 48)
    assert strides["channels last"] == (96, 8, 24)
    assert strides["sliced"][-1] == 16
    assert strides["backwards"] == (-96, -32, -8)


@given(m=arrays().filter(lambda x: x.dtype.kind == "f"), layout=st.sampled_from(sorted(LAYOUTS)))
def test_pack_and_unpack(m, layout):
    v = LAYOUTS[layout](np.asarray(m * 2))
    form = pack({"w": State(m, v, 3)})
    assert all(x.flags.c_contiguous for x in form.values())
    for way in (through_npz(form), load(save(form))):
        same(way, form)
        states, _ = unpack(way)
        assert np.array_equal(states["w"].m, m)
        assert np.array_equal(states["w"].v, v)


@given(param=arrays(), other=st.sampled_from(sorted(LAYOUTS)))
def test_numpy(param, other):
    """From one layout to another, each value keeps its place."""
    one = setadam_numpy.SETAdam({"w": param}, fused=False)
    one.step({"w": param.copy()})
    form = one.state_dict()
    assert all(x.flags.c_contiguous for x in form.values())
    assert np.array_equal(form["w/exp_avg"], one.state["w"]["exp_avg"])
    for way in (through_npz(form), load(save(form)), {k: LAYOUTS[other](x) for k, x in form.items()}):
        two = setadam_numpy.SETAdam({"w": LAYOUTS[other](param.copy())}, fused=False)
        two.load_state_dict(way)
        same(two.state_dict(), form)


@given(param=arrays(), other=st.sampled_from(sorted(LAYOUTS)))
def test_torch(param, other):
    torch = pytest.importorskip("torch")
    import setadam_torch

    def tensor(x):
        """With the same strides; torch has no negative ones."""
        return torch.from_numpy(x if min(x.strides, default=0) >= 0 else x.copy())

    p = tensor(param).requires_grad_()
    one = setadam_torch.SETAdam([("w", p)])
    p.grad = p.detach().clone()
    one.step()
    form = setadam_torch.to_neutral(one)
    assert all(x.flags.c_contiguous for x in form.values())
    m = one.state[p]["exp_avg"]
    assert np.array_equal(form["w/exp_avg"], (torch.view_as_real(m) if m.is_complex() else m).numpy())
    for way in (through_npz(form), load(save(form)), {k: LAYOUTS[other](x) for k, x in form.items()}):
        two = setadam_torch.SETAdam([("w", tensor(LAYOUTS[other](param.copy())).requires_grad_())])
        setadam_torch.load_neutral(two, way)
        same(setadam_torch.to_neutral(two), form)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_cupy(cupy, layout):
    import setadam_cupy

    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    param = cupy.array(LAYOUTS[layout](x.copy()), order="K")
    one, two = setadam_cupy.SETAdam({"w": param}), setadam_cupy.SETAdam({"w": cupy.array(x)})
    one.step({"w": cupy.array(x)})
    form = one.state_dict()
    np.testing.assert_allclose(form["w/exp_avg"], np.float32(0.1) * x, rtol=2.0**-23)
    two.load_state_dict(load(save(form)))
    same(two.state_dict(), form)
