"""Stochastic rounding in place: the step of a wide copy, rounded by the specification's words, whatever the layout."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import setadam_core
from setadam_core import Hyperparameters, Rounding, State
from setadam_core.inplace import rounding
from setadam_numpy import SETAdam
from setadam_numpy.memory import NumPyMemory

BFLOAT16 = ml_dtypes.bfloat16
FUSED = pytest.mark.parametrize("fused", [False, None])


def random(seed, shape=(3, 4), dtype=BFLOAT16):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def spec_of_wide(param, grad, state, seed, layer, fused):
    """The specification's rounding of the step that the same path takes in float32."""
    wide = {"w": param.astype(np.float32)}
    optimizer = SETAdam(wide, fused=fused)
    optimizer.state["w"] = {"step": state.t, "exp_avg": state.m.copy(), "exp_avg_sq": state.v.copy()}
    optimizer.step({"w": grad.astype(np.float32)})
    return Rounding(seed, layer).round(wide["w"], param.dtype, state.t + 1).astype(param.dtype)


@FUSED
@pytest.mark.parametrize("dtype", [BFLOAT16, np.float16])
def test_parameters_are_rounded_by_their_place(dtype, fused):
    params = [random(0, (5, 7), dtype), random(1, (3,), np.float32), random(2, (), dtype), random(3, (0, 2), dtype)]
    params += [random(4, (6, 8), dtype)[::2, ::3], random(5, (4, 9), dtype).T]
    optimizer = SETAdam([{"params": params[:2]}, {"params": params[2:]}], stochastic_rounding=11, fused=fused)
    for t in range(3):
        grads = [random(10 * t + i, p.shape, p.dtype) for i, p in enumerate(params)]
        states = [State(s["exp_avg"].copy(), s["exp_avg_sq"].copy(), t) for s in optimizer.state.values()]
        of_all = zip(params, grads, states, strict=True)
        expected = [spec_of_wide(p, g, s, 11, layer, fused) for layer, (p, g, s) in enumerate(of_all)]
        optimizer.step(dict(zip(optimizer.state, grads, strict=True)))
        for param, value in zip(params, expected, strict=True):
            assert np.array_equal(param, value)


@given(block=st.integers(1, 40), together=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_blocks_change_nothing(block, together, seed):
    results = []
    for blocks, batch in ((1 << 15, 1 << 24), (block, together)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NumPyMemory, "block", blocks)
            patch.setattr(rounding, "_TOGETHER", batch)
            params = [random(1, (3, 5)), random(2, (31,))]
            optimizer = SETAdam(params, stochastic_rounding=seed, fused=False)
            optimizer.step([random(3, (3, 5)), random(4, (31,))])
        results.append(params)
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


@FUSED
def test_run_goes_on_after_each_kind_of_copy(fused):
    """The counter is t, and the seed an option: nothing else has to be kept."""

    def steps(optimizer, ts):
        for t in ts:
            optimizer.step({name: random(t + 50, p.shape) for name, p in optimizer.params.items()})

    def fresh(**options):
        return SETAdam({"a": random(0), "b": random(1, (70,))}, fused=fused, **options)

    whole = fresh(stochastic_rounding=5)
    steps(whole, range(4))
    begun = fresh(stochastic_rounding=5)
    steps(begun, range(2))
    loaded = fresh()
    for name, param in loaded.params.items():
        param[...] = begun.params[name]
    loaded.load_state_dict(begun.state_dict())
    for other in (copy.deepcopy(begun), pickle.loads(pickle.dumps(begun)), loaded):
        steps(other, range(2, 4))
        for name, param in other.params.items():
            assert np.array_equal(param, whole.params[name])


def test_state_from_before_the_option_leaves_it_as_it_is():
    optimizer = SETAdam([random(0)], stochastic_rounding=3)
    form = {k: x for k, x in optimizer.state_dict().items() if not k.endswith("stochastic_rounding")}
    optimizer.load_state_dict(form)
    assert optimizer.param_groups[0]["stochastic_rounding"] == 3


def test_option_can_be_changed_between_steps():
    """Also where the checks of the step before would be taken over, as for three layers."""
    params = [random(i) for i in range(4)]
    optimizer = SETAdam(params)
    for t, seed in enumerate((False, False, 1, 1, False, False)):
        before = [State(s["exp_avg"].copy(), s["exp_avg_sq"].copy(), t) for s in optimizer.state.values()]
        optimizer.param_groups[0]["stochastic_rounding"] = seed
        grads = [random(20 + t + i) for i in range(4)]
        how = [None if seed is False else Rounding(seed, layer) for layer in range(4)]
        of_all = zip(params, grads, before, how, strict=True)
        expected = [setadam_core.step(p, g, s, Hyperparameters(), rounding=r)[0] for p, g, s, r in of_all]
        optimizer.step(grads)
        for param, value in zip(params, expected, strict=True):
            near = np.abs(param.astype(np.float64) - value.astype(np.float64))
            assert np.all(near <= np.abs(value.astype(np.float64)) * 2**-7)
            assert np.mean(param == value) > 0.9  # float32 steps may differ in a bit, which rarely changes a draw


def test_wider_parameters_are_not_concerned():
    results = []
    for seed in (False, 4):
        params = [random(0, dtype=np.float32), random(1, dtype=np.float64)]
        SETAdam(params, stochastic_rounding=seed).step([random(2, dtype=np.float32), random(3, dtype=np.float64)])
        results.append(params)
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("value", [-1, 2**32, 0.5, "yes", None])
def test_other_seeds_are_refused_before_anything_changes(value):
    with pytest.raises((TypeError, ValueError), match="stochastic_rounding must be"):
        SETAdam([random(0)], stochastic_rounding=value)
    optimizer = SETAdam([random(0)])
    before = optimizer.params["0"].copy()
    optimizer.param_groups[0]["stochastic_rounding"] = value
    with pytest.raises((TypeError, ValueError), match="stochastic_rounding must be"):
        optimizer.step([random(1)])
    assert np.array_equal(optimizer.params["0"], before)
    assert optimizer.state["0"]["step"] == 0
