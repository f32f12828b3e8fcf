"""The headers of arrays, as they are read from memory, are what Python says of the arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from setadam_numpy import SETAdam, headers
from setadam_numpy.headers import DATA, DTYPE, FLAGS, ID, NDIM

pytestmark = pytest.mark.skipif(not headers.available(), reason="headers cannot be read on this Python")

dtypes = st.sampled_from([np.float16, np.float32, np.float64, np.complex64, np.int8, ">f4"])


@st.composite
def views(draw):
    x = draw(
        hnp.arrays(draw(dtypes), hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4), fill=st.just(0))
    )
    x = x[draw(hnp.basic_indices(x.shape, allow_newaxis=True, allow_ellipsis=True))]
    x = np.asarray(x).transpose(draw(st.permutations(range(np.ndim(x)))))
    x.flags.writeable = draw(st.booleans())
    return x


@given(arrays=st.lists(views(), max_size=6))
def test_headers(arrays):
    found = headers.headers(arrays)
    assert found.words.shape == (5, len(arrays))
    for i, x in enumerate(arrays):
        word = found.words[:, i].tolist()
        assert (word[ID], word[DTYPE], word[NDIM]) == (id(x), id(x.dtype), x.ndim)
        assert (word[DATA], word[FLAGS]) == (x.__array_interface__["data"][0], x.flags.num)
    assert found.lengths.tolist() == [n for x in arrays for n in x.shape]
    assert found.strides.tolist() == [n for x in arrays for n in x.strides]


@pytest.mark.parametrize(
    "other", [None, 1.0, "x", [np.ones(3)], np.float32(1), np.ma.ones(3), np.ones(3).view(np.matrix)]
)
def test_objects_that_are_not_arrays_are_not_read(other):
    assert headers.headers([np.ones(3), other]) is None


@pytest.mark.parametrize("wrong", ["words", "axes"])
def test_other_headers_are_noticed(monkeypatch, wrong):
    """As on a Python whose arrays begin with other words."""
    read = headers._read

    def changed(arrays):
        words, lengths, strides = read(arrays)
        return headers.Headers(words + (wrong == "words"), lengths, strides[::-1] if wrong == "axes" else strides)

    monkeypatch.setattr(headers, "_read", changed)
    assert not headers.available.__wrapped__()


def test_without_the_gil_nothing_is_read(monkeypatch):
    monkeypatch.setattr(headers.sys, "_is_gil_enabled", lambda: False, raising=False)
    monkeypatch.setattr(headers, "_read", lambda arrays: pytest.fail("memory was read"))
    assert not headers.available.__wrapped__()


def test_an_optimizer_without_headers(monkeypatch):
    monkeypatch.setattr(headers, "available", lambda: False)
    optimizer = SETAdam([np.ones(3)])
    for _ in range(3):
        optimizer.step([np.ones(3)])
    assert optimizer._plan is None
    assert optimizer.state["0"]["step"] == 3
