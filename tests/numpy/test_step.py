"""The step compared with setadam_core, for any container, dtype, memory order and division into layers."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setadam_conformance.cases.case import DEFAULTS, Case, LayerCase, fresh_layer, real_view
from setadam_conformance.judging.judge import judge
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import LayerState
from setadam_conformance.running.backends import Source
from setadam_conformance.running.plan import PROFILES, plan
from setadam_conformance.running.runner import check
from setadam_core.layers import check_layer_axes
from setadam_numpy import SETAdam
from setadam_numpy.conformance import NumPyPlain

DTYPES = ["float64", "float32", "bfloat16", "float16", "complex64", "complex128"]
SHAPES = [(), (1,), (7,), (3, 4), (2, 3, 5), (0,), (3, 0), (1, 6, 1)]
AXES = {0: [None, ()], 1: [None, (), (0,)], 2: [None, (0,), (1,), (-1,)], 3: [None, (1, 2), (0, 2), (1,), ()]}


def random(rng, shape, dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x = rng.standard_normal(shape)
    return np.asarray(x + 1j * rng.standard_normal(shape) if kind.kind == "c" else x).astype(kind)


def arranged(x, how):
    """The same numbers in another layout: in C order, in Fortran order, or reversed with gaps."""
    if how == "F":
        return np.array(x, order="F")
    if how == "gaps" and x.ndim:
        whole = np.zeros(tuple(2 * n for n in x.shape), x.dtype)
        view = whole[(slice(None, None, -2),) * x.ndim]
        view[...] = x
        return view
    return x.copy()


def judged(layers, params, optimizer, hp):
    dtype = {"complex64": "float32", "complex128": "float64"}.get(str(params[0].dtype), str(params[0].dtype))
    states = [LayerState(s["exp_avg"], s["exp_avg_sq"], s["step"]) for s in optimizer.state.values()]
    verdict = judge(Case(dtype, tuple(layers), states[0].t - 1, hp), params, states, NumPyPlain.capabilities)
    assert verdict.conforms, verdict


@settings(max_examples=150)
@given(
    dtype=st.sampled_from(DTYPES),
    drawn=st.lists(
        st.tuples(st.sampled_from(SHAPES), *[st.sampled_from(["C", "F", "gaps"])] * 2), min_size=1, max_size=4
    ),
    data=st.data(),
    seed=st.integers(0, 99),
    changes=st.fixed_dictionaries(
        {},
        optional={
            "lr": st.sampled_from([0.0, 0.3]),
            "tau": st.sampled_from([0.0, 0.9]),
            "weight_decay": st.just(0.1),
            "decoupled_weight_decay": st.booleans(),
            "maximize": st.booleans(),
            "cos_power": st.sampled_from([0.0, 1.0]),
            "eps_inside_sqrt": st.booleans(),
        },
    ),
)
def test_two_steps_are_within_the_bound(dtype, drawn, data, seed, changes):
    rng, hp = np.random.default_rng(seed), {**DEFAULTS, **changes}
    params = [arranged(random(rng, shape, dtype), how) for shape, how, _ in drawn]
    axes = [data.draw(st.sampled_from(AXES[p.ndim])) for p in params]
    groups = [{"params": [p], "layer_axes": a} for p, a in zip(params, axes, strict=True)]
    optimizer = SETAdam(groups, fused=False, **changes)
    axes = [a if a is None else check_layer_axes(a, p.ndim) for p, a in zip(params, axes, strict=True)]
    for _ in range(2):
        grads = [arranged(random(rng, p.shape, dtype), how) for p, (_, _, how) in zip(params, drawn, strict=True)]
        kept = [g.copy() for g in grads]
        layers = [
            LayerCase(p.copy(), g.copy(), s["exp_avg"].copy(), s["exp_avg_sq"].copy(), a)
            for p, g, s, a in zip(params, grads, optimizer.state.values(), axes, strict=True)
        ]
        optimizer.step([[g] for g in grads])
        judged(layers, params, optimizer, hp)
        assert all(g.tobytes() == k.tobytes() for g, k in zip(grads, kept, strict=True))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("axes", [None, (1, 2), (0,), (2,)])
@pytest.mark.parametrize("how", ["C", "F", "gaps"])
def test_layers_of_many_blocks(monkeypatch, dtype, axes, how):
    """Blocks so small that a layer is divided in every possible way."""
    monkeypatch.setattr("setadam_numpy.blocks.BLOCK", 7)
    rng = np.random.default_rng(0)
    param, grad = arranged(random(rng, (3, 4, 5), dtype), how), random(rng, (3, 4, 5), dtype)
    optimizer = SETAdam([param], layer_axes=axes, fused=False)
    layers = [fresh_layer(param.copy(), grad, axes)]
    optimizer.step([grad])
    judged(layers, [param], optimizer, dict(DEFAULTS))


@pytest.mark.parametrize("dtype", NumPyPlain.capabilities.dtypes)
def test_conforms(dtype):
    """The kit's properties, each with a few examples, except the expensive ones on large layers."""
    adapter = NumPyPlain()
    source = Source(adapter.name, adapter.framework, "none:none")
    for cell in plan({source: adapter.capabilities}, profile=PROFILES["quick"], dtypes=(dtype,), max_examples=4):
        if PROPERTIES[cell.property].share > 0.1:
            result = check(PROPERTIES[cell.property], adapter, cell)
            assert result.status == "pass", (cell.property, result.reason, result.failure)


def test_no_temporary_is_larger_than_a_block():
    import tracemalloc

    param, grad = np.ones(1 << 21, np.float32), np.ones(1 << 21, np.float32)
    optimizer = SETAdam([param], fused=False)
    optimizer.step([grad])
    tracemalloc.start()
    optimizer.step([grad])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000  # the scratch is kept; what is left are numbers and views, a block being 262,144 bytes


def test_a_gradient_may_be_the_parameter_itself():
    x, y = np.array([3.0, -2.0]), np.array([3.0, -2.0])
    one, two = SETAdam([x], lr=0.1), SETAdam([y], lr=0.1)
    for _ in range(3):
        one.step([x])
        two.step([y.copy()])
    assert np.array_equal(x, y)


def test_scalars_of_0d_arithmetic_are_gradients():
    x = np.array(3.0)
    SETAdam({"x": x}, lr=0.1).step({"x": 2 * x})
    assert x < 3


@pytest.mark.parametrize("axes", [None, (1,)])
def test_overflow_gives_what_it_gives_and_never_half_a_step(axes):
    """Also under errstate(all="raise"): a step gives NaN and no exception."""
    params = [np.ones((2, 3), np.float32) for _ in "ab"]
    grads = [np.full((2, 3), 1e30, np.float32), np.ones((2, 3), np.float32)]
    optimizer = SETAdam(params, layer_axes=axes)
    with np.errstate(all="raise"):
        optimizer.step(grads)
    assert np.isnan(params[0]).all()
    assert np.isfinite(params[1]).all()
    assert {entry["step"] for entry in optimizer.state.values()} == {1}


def test_real_views():
    z, dz = (random(np.random.default_rng(i), (3, 4), "complex64") for i in range(2))
    as_real = real_view(z).copy()
    SETAdam([z], lr=0.1).step([dz])
    SETAdam([as_real], lr=0.1).step([real_view(dz)])
    assert np.array_equal(real_view(z), as_real)
