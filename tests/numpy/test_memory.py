"""Arrays with any memory layout: the step is correct, or an error that changes nothing. No process crashes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from setadam_core import Hyperparameters, init, step
from setadam_numpy import SETAdam
from setadam_numpy.fused import why_not

PROGRAM = Path(__file__).with_name("memory_kinds.py")
_spec = importlib.util.spec_from_file_location("setadam_memory_kinds", PROGRAM)
kinds = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kinds)

# What is no array of one value a place, or may not be written, is refused in these roles; all else is right.
WRITTEN = {"param", "exp_avg", "exp_avg_sq"}
REFUSED = {
    "stride 0": WRITTEN,
    "windows": WRITTEN,
    "other bytes": {*WRITTEN, "grad"},
    "masked": {*WRITTEN, "grad"},
    "read-only": WRITTEN,
    "memmap, read-only": WRITTEN,
}


@pytest.fixture(scope="module")
def outcomes():
    """The outcome of each case, by path. A process that crashed is restarted after the case in which it crashed."""
    found = {}

    def of(path):
        if path not in found:
            if path == "fused" and (reason := why_not(np.float32)):
                pytest.skip(reason)
            found[path], first = {}, 0
            while first < len(kinds.CASES):
                command = [sys.executable, str(PROGRAM), path, str(first)]
                run = subprocess.run(command, capture_output=True, text=True, timeout=300)
                found[path] |= dict(map(json.loads, run.stdout.splitlines()))
                first = max(found[path], default=len(kinds.CASES) - 1) + 1
                if run.returncode:
                    found[path][first - 1] = f"the process ended with {run.returncode}: {run.stderr[-400:]}"
        return found[path]

    return of


@pytest.mark.parametrize("path", ["plain", "fused"])
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_right_or_refused(outcomes, kind, path):
    got = {kinds.CASES[i][1:]: x for i, x in outcomes(path).items() if kinds.CASES[i][0] == kind}
    expected = {
        (role, dtype): "refused" if role in REFUSED.get(kind, ()) else "right"
        for role in kinds.ROLES
        for dtype in kinds.DTYPES
    }
    assert got == expected


def random(seed, shape=(3, 4), dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


FUSED = [False, pytest.param(True, marks=pytest.mark.skipif(why_not(np.float32) is not None, reason="no kernel"))]


def everything(optimizer):
    arrays = [x.tobytes() for x in optimizer.params.values()]
    return arrays, [
        {k: (x.tobytes() if hasattr(x, "tobytes") else x) for k, x in s.items()} for s in optimizer.state.values()
    ]


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s, p: {"step": 1.5}, ValueError, r"step of 'b' must be a whole number ≥ 0, .*, got 1\.5"),
        (lambda s, p: {"step": True}, ValueError, "step of 'b' must be a whole number ≥ 0, .*, got True"),
        (lambda s, p: {"step": np.True_}, ValueError, "step of 'b' must be a whole number ≥ 0, .*, got np.True_"),
        (lambda s, p: {"step": -1}, ValueError, "step of 'b' must be a whole number ≥ 0, .*, got -1"),
        (lambda s, p: {"step": 10**400}, ValueError, "step of 'b' must be a whole number ≥ 0, .*, got 1000"),
        (lambda s, p: {"step": None}, ValueError, "step of 'b' must be a whole number ≥ 0, .*, got None"),
        (lambda s, p: {"step": np.array([1])}, ValueError, "step of 'b' must be a whole number ≥ 0"),
        (lambda s, p: {"exp_avg": None}, TypeError, "exp_avg of 'b' must be an array, got NoneType"),
        (lambda s, p: {"exp_avg": [1.0]}, TypeError, "exp_avg of 'b' must be an array, got list"),
        (
            lambda s, p: {"exp_avg": s["exp_avg"].T},
            ValueError,
            r"exp_avg of 'b' must have shape \(3, 4\), got \(4, 3\)",
        ),
        (
            lambda s, p: {"exp_avg_sq": s["exp_avg_sq"].astype("f8")},
            TypeError,
            "exp_avg_sq of 'b' must have dtype float32",
        ),
        (lambda s, p: {"exp_avg_sq": s["exp_avg"]}, ValueError, "exp_avg of 'b' and exp_avg_sq of 'b' share memory"),
        (lambda s, p: {"exp_avg": p["b"]}, ValueError, "param 'b' and exp_avg of 'b' share memory"),
        (lambda s, p: {"exp_avg": p["a"][::-1]}, ValueError, "param 'a' and exp_avg of 'b' share memory"),
    ],
)
def test_a_state_that_was_changed_is_refused_before_anything_moved(fused, change, error, message):
    optimizer = SETAdam({"a": random(0), "b": random(1), "c": random(2)}, fused=fused)
    grads = {name: random(3) for name in "abc"}
    optimizer.step(grads)
    optimizer.state["b"].update(change(optimizer.state["b"], optimizer.params))
    kept = repr(everything(optimizer))
    with pytest.raises(error, match=message):
        optimizer.step(grads)
    assert repr(everything(optimizer)) == kept


@pytest.mark.parametrize("field", ["exp_avg", "exp_avg_sq", "step"])
def test_a_state_that_lacks_something(field):
    optimizer = SETAdam({"a": random(0), "b": random(1)})
    del optimizer.state["b"][field]
    kept = repr(everything(optimizer))
    for use in (lambda: optimizer.step({"a": random(2), "b": random(3)}), optimizer.state_dict):
        with pytest.raises(
            KeyError, match=f"the state of 'b' must have exp_avg, exp_avg_sq and step, but '{field}' is"
        ):
            use()
    assert repr(everything(optimizer)) == kept


@pytest.mark.parametrize("t", [np.int64(3), np.uint8(255), np.array(3), 2**62], ids=repr)
@pytest.mark.parametrize("fused", FUSED)
def test_whole_numbers_of_any_kind_are_counts(t, fused):
    one, two = (SETAdam({"w": random(0)}, fused=fused) for _ in "ab")
    one.state["w"]["step"], two.state["w"]["step"] = t, int(t)
    for optimizer in (one, two):
        optimizer.step({"w": random(1)})
        assert optimizer.state["w"]["step"] == int(t) + 1
        assert type(optimizer.state["w"]["step"]) is int
    assert everything(one) == everything(two)


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("field", ["exp_avg", "exp_avg_sq"])
def test_a_gradient_that_shares_memory_with_a_moment(fused, field):
    optimizer = SETAdam({"a": random(0), "b": random(1)}, fused=fused)
    kept = everything(optimizer)
    for name in "ab":
        grads = {"a": random(2), "b": random(3)} | {name: optimizer.state["b"][field]}
        with pytest.raises(ValueError, match=f"grad '{name}' shares memory with {field} of 'b', which the same step"):
            optimizer.step(grads)
    assert everything(optimizer) == kept


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("axes", [None, (1,), (0,)])
@pytest.mark.parametrize("how", ["itself", "turned", "before", "behind"])
def test_a_gradient_in_its_own_parameters_memory(fused, axes, how):
    """One layer's θ is written before the next layer's gradient is read."""
    whole = random(0, (6, 4))
    whole[:] += np.arange(24.0).reshape(6, 4)
    param = whole[1:5]
    grad = {"itself": param, "turned": param.T, "before": whole[:4], "behind": whole[2:]}[how]
    hp = Hyperparameters(lr=0.1)
    expected, state = step(param.copy(), grad.copy(), init(param), hp, layer_axes=axes)
    optimizer = SETAdam({"w": param}, lr=0.1, layer_axes=axes, fused=fused)
    optimizer.step({"w": grad})
    # θ is below 24, and moves by less than 1: its rounding, and that of the sums in γ.
    np.testing.assert_allclose(param, expected, rtol=2.0**-22)
    np.testing.assert_allclose(optimizer.state["w"]["exp_avg"], state.m, rtol=2.0**-22)


def test_a_parameter_that_was_replaced():
    optimizer = SETAdam({"a": random(0), "b": random(1)})
    grads = {"a": random(2), "b": random(3)}
    for bad, error, message in (
        (None, TypeError, "param 'b' must be an array, got NoneType"),
        (np.ma.ones((3, 4), np.float32), TypeError, "param 'b' must be an array, got MaskedArray"),
        (np.ones((3, 4), int), TypeError, "param 'b': param must have one of the dtypes"),
        (optimizer.params["a"], ValueError, "param 'a' and param 'b' share memory"),
    ):
        optimizer.param_groups[0]["params"]["b"] = bad
        kept = optimizer.params["a"].tobytes()
        with pytest.raises(error, match=message):
            optimizer.step(grads)
        assert optimizer.params["a"].tobytes() == kept
    optimizer.param_groups[0]["params"]["b"] = new = random(1)
    optimizer.step(grads)
    assert not np.array_equal(new, random(1))
