"""Containers, groups, options and state, and errors, after which everything is unchanged."""

import copy
import io
import pickle
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from setadam_core.inplace.containers import flatten
from setadam_numpy import SETAdam


def random(seed, shape=(3, 4), dtype=np.float32):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def model():
    """Nested parameters of all kinds, and gradients like them."""
    whole = random(0, (6, 8))
    params = {
        "layers": [{"weight": random(1), "bias": random(2, (4,), np.float64)}, {"weight": whole[::2, ::3]}],
        "head": (random(3, (), np.float64), random(4, (5,), ml_dtypes.bfloat16), random(5, (2,)).astype(np.complex64)),
        "empty": random(6, (0, 3)),
    }
    names = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "head.0", "head.1", "head.2", "empty"]
    return params, names


def grads_like(optimizer, seed=9):
    return {
        k: random(seed + i, p.shape, np.float64).astype(p.dtype) for i, (k, p) in enumerate(optimizer.params.items())
    }


def snapshot(optimizer):
    arrays = list(optimizer.params.values())
    arrays += [entry[k] for entry in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq")]
    counts = [entry["step"] for entry in optimizer.state.values()]
    options = [{k: x for k, x in group.items() if k != "params"} for group in optimizer.param_groups]
    return [x.tobytes() for x in arrays], counts, copy.deepcopy(options), list(optimizer.params)


@pytest.fixture
def optimizer():
    optimizer = SETAdam(model()[0], lr=0.1)
    optimizer.step(grads_like(optimizer))
    return optimizer


def test_names_are_paths():
    params, names = model()
    optimizer = SETAdam(params)
    assert list(optimizer.params) == names
    assert optimizer.params["layers.1.weight"] is not None
    assert np.shares_memory(optimizer.params["layers.1.weight"], params["layers"][1]["weight"])


leaves = st.builds(lambda n: np.ones(n), st.integers(0, 3))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(tree=st.one_of(st.lists(trees, max_size=3), st.dictionaries(st.sampled_from("xyz"), trees, max_size=3)))
def test_any_nesting_steps_in_place(tree):
    flat = flatten(tree, "param", lambda x: x)
    if not flat:
        with pytest.raises(ValueError, match="params must hold at least one array"):
            SETAdam(tree)
        return
    optimizer = SETAdam(tree, lr=0.1)
    optimizer.step(tree)  # each is its own gradient
    optimizer.step(dict(reversed(flat.items())))
    for name, x in flatten(tree, "param", lambda x: x).items():
        assert x is flat[name]
        assert np.all(x < 1)


def test_groups_have_their_own_options():
    a, b, c = random(0), random(0), random(0)
    optimizer = SETAdam([{"params": {"a": a}}, {"params": [b], "lr": 0.5}, {"params": {"c": c}, "tau": 0.0}], lr=0.1)
    assert list(optimizer.params) == ["a", "1.0", "c"]
    g = random(1)
    optimizer.step({"a": g, "1.0": g, "c": g})
    start = random(0)
    np.testing.assert_allclose(b - start, 5 * (a - start), rtol=1e-4)  # θ is rounded to 1e-7, its change is 1e-2 of it
    assert np.all(np.abs(c - start) < np.abs(a - start))
    with pytest.raises(ValueError, match=r"different lr, \[0.1, 0.5, 0.1\]"):
        optimizer.lr = 1.0
    with pytest.raises(ValueError, match="different lr"):
        _ = optimizer.lr


def test_lr_between_steps():
    one, two = random(0), random(0)
    a, b = SETAdam([one], lr=0.5), SETAdam([two], lr=0.1)
    a.lr = 0.1
    assert a.lr == 0.1
    a.step([random(1)])
    b.step([random(1)])
    assert np.array_equal(one, two)
    with pytest.raises(ValueError, match=r"lr must be finite and ≥ 0, got -1"):
        a.lr = -1
    assert a.lr == 0.1


def test_add_param_group(optimizer):
    new = random(0)
    optimizer.add_param_group({"params": {"new": new}, "lr": 0.0})
    before = new.copy()
    optimizer.step(grads_like(optimizer))
    assert np.array_equal(new, before)
    assert optimizer.state["new"]["step"] == 1
    assert optimizer.state["head.0"]["step"] == 2
    kept = snapshot(optimizer)
    for bad, error, message in (
        ({"params": {"new": random(1)}}, ValueError, "'new' occurs twice"),
        ({"params": {"other": new}}, ValueError, "'new' and param 'other' share memory"),
        ({"params": {"other": random(1)}, "lrr": 1}, TypeError, "no option 'lrr'"),
        ({"params": {"other": random(1)}, "tau": 1.0}, ValueError, r"tau must be in \[0, 1\), got 1.0"),
        ([random(1)], TypeError, "a group must be a dict with 'params'"),
    ):
        with pytest.raises(error, match=message):
            optimizer.add_param_group(bad)
        assert snapshot(optimizer) == kept


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


whole = np.ones((4, 6), np.float32)
BAD_PARAMS = {
    "an integer": ({"w": np.ones(3, int)}, TypeError, "'w'.*must have one of the dtypes .* got int64"),
    "another byte order": ({"w": np.ones(3, ">f4")}, TypeError, "'w'.*got >f4"),
    "read-only": ({"a": [random(0), read_only(random(0))]}, ValueError, "'a.1' is read-only"),
    "twice": ([whole, whole], ValueError, "'0' and param '1' share memory"),
    "overlapping": ({"a": whole[:3], "b": {"c": whole[2:]}}, ValueError, "'a' and param 'b.c' share memory"),
    "a view of the real part": (
        {"z": (z := np.ones(3, complex)), "x": z.real}, ValueError, "'z' and param 'x' share memory"
    ),
    "overlapping itself": (
        [np.lib.stride_tricks.as_strided(whole, (4, 6), (0, 4))], ValueError, "'0' must not overlap itself"
    ),
    "no array": ({"a": 1.0}, TypeError, "'a' must be an array, got float"),
    "a NumPy scalar": ([np.float32(1)], TypeError, "'0' must be an array, got float32"),
    "a masked array": ([np.ma.ones(3)], TypeError, "'0' must be an array, got MaskedArray"),
    "an array alone": (whole, TypeError, "params must be a list, tuple or dict of arrays, got ndarray"),
    "one name for two": ({"a.b": random(0), "a": {"b": random(1)}}, ValueError, "'a.b' occurs twice"),
    "nothing": ([], ValueError, "params must hold at least one array"),
    "a group and an array": ([{"params": [random(0)]}, random(1)], TypeError, "a group must be a dict"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_PARAMS)
def test_parameters_that_are_refused(kind):
    params, error, message = BAD_PARAMS[kind]
    with pytest.raises(error, match=message):
        SETAdam(params)


def test_interleaved_parameters_are_separate():
    columns = np.ones((4, 6), np.float32)
    optimizer = SETAdam({"even": columns[:, ::2], "odd": columns[:, 1::2]}, lr=0.1)
    optimizer.step({"even": np.ones((4, 3), np.float32), "odd": np.zeros((4, 3), np.float32)})
    assert np.all(columns[:, ::2] < 1)
    assert np.all(columns[:, 1::2] == 1)


@pytest.mark.parametrize(
    ("option", "value", "error", "message"),
    [
        ("lr", -0.1, ValueError, "lr must be finite and ≥ 0, got -0.1"),
        ("lr", np.array(0.1), TypeError, r"lr must be a number, got an array \(ndarray\)"),
        ("betas", (0.9,), ValueError, r"betas must be a pair of numbers in \[0, 1\), got \(0.9,\)"),
        ("betas", "ab", ValueError, r"betas must be a pair of numbers in \[0, 1\), got 'ab'"),
        ("betas", np.ones((2, 1)), ValueError, r"betas must be a pair of numbers in \[0, 1\), got array"),
        ("betas", (0.9, 1.0), ValueError, r"beta2 must be in \[0, 1\), got 1.0"),
        ("eps", 0, ValueError, "eps must be finite and > 0, got 0"),
        ("eps", 1e-40, ValueError, "'0': eps must be at least 1.175e-38"),
        ("tau", "0.5", TypeError, "tau must be a real number, got '0.5'"),
        ("maximize", 1, TypeError, "maximize must be True or False, got 1"),
        ("maximize", np.array(True), TypeError, r"maximize must be True or False, got array\(True\)"),
        ("lr", np.True_, TypeError, "lr must be a real number, got np.True_"),
        ("fused", 0, TypeError, "fused must be None, True or False, got 0"),
        ("fused", np.ones(2), TypeError, "fused must be None, True or False, got array"),
        ("layer_axes", {0}, ValueError, r"'0': layer_axes must be None or distinct axes .* got \{0\}"),
        ("fused", "yes", TypeError, "fused must be None, True or False, got 'yes'"),
        ("layer_axes", (2,), ValueError, r"'0': layer_axes must be None or distinct axes of an array with 2 axes"),
    ],
)
def test_options_that_are_refused(option, value, error, message):
    with pytest.raises(error, match=message):
        SETAdam([random(0)], **{option: value})
    optimizer = SETAdam([random(0)])
    optimizer.param_groups[0][option] = value  # and where they are changed between steps
    kept = snapshot(optimizer)
    with pytest.raises(error):
        optimizer.step([random(1)])
    assert repr(snapshot(optimizer)) == repr(kept)


class Configured(Sequence):
    """A sequence from a configuration file, such as omegaconf's, which is neither a list nor a tuple."""

    def __init__(self, *values):
        self.values = values

    def __getitem__(self, i):
        return self.values[i]

    def __len__(self):
        return len(self.values)


@pytest.mark.parametrize(
    "option",
    [
        {"betas": np.array([0.5, 0.75])},
        {"betas": [np.float32(0.5), 0.75]},
        {"betas": Configured(0.5, 0.75)},
        {"betas": (0.5, 0.75), "maximize": np.False_, "eps_inside_sqrt": np.True_, "fused": np.False_},
    ],
    ids=["array", "list", "sequence", "switches of NumPy"],
)
def test_options_of_other_types(option):
    """They have their values, in a step and in a state_dict."""
    plain, other = (SETAdam([random(0)], **{"fused": False, "betas": (0.5, 0.75)} | given) for given in ({}, option))
    for optimizer in (plain, other):
        optimizer.step([random(1)])
    assert np.array_equal(plain.params["0"], other.params["0"])
    loaded = SETAdam([random(0)])
    loaded.load_state_dict(through_npz(other.state_dict()))
    group = loaded.param_groups[0]
    assert (group["betas"], group["maximize"], group["fused"]) == ((0.5, 0.75), False, False)


def test_a_switch_of_numpy_keeps_the_kernel_out(monkeypatch):
    monkeypatch.setattr("setadam_numpy.fused._hand_over", lambda *args: pytest.fail("the kernel was called"))
    SETAdam([random(0)], fused=np.False_).step([random(1)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: SETAdam(), r"SETAdam\.__init__\(\) missing 1 required positional argument: 'params'"),
        (lambda o: SETAdam([random(0)], lrr=1), r"SETAdam\.__init__\(\) got an unexpected keyword argument 'lrr'"),
        (lambda o: o.step(), r"SETAdam\.step\(\) missing 1 required positional argument: 'grads'"),
        (lambda o: o.step([random(1)], 2), r"SETAdam\.step\(\) takes 2 positional arguments but 3 were given"),
        (lambda o: o.add_param_group(), r"SETAdam\.add_param_group\(\) missing 1"),
        (lambda o: o.load_state_dict(), r"SETAdam\.load_state_dict\(\) missing 1"),
        (lambda o: o.load_state_dict(3), "a neutral form must be a mapping of names to arrays, got int"),
        (lambda o: SETAdam(None), "params must be a list, tuple or dict of arrays, got NoneType"),
        (lambda o: o.step(None), "grads must be a list, tuple or dict of arrays, got NoneType"),
    ],
)
def test_wrong_calls_name_what_was_called(call, message):
    optimizer = SETAdam([random(0)])
    with pytest.raises(TypeError, match=message):
        call(optimizer)


def without(grads, name):
    return {k: g for k, g in grads.items() if k != name}


BAD_GRADS = {
    "missing": (lambda g, p: without(g, "layers.1.weight"), KeyError, "the one for 'layers.1.weight' is missing"),
    "surplus": (lambda g, p: g | {"more": random(0)}, KeyError, "there is no param 'more'"),
    "None": (lambda g, p: g | {"empty": None}, TypeError, "grad 'empty' must be an array, got NoneType"),
    "of another shape": (
        lambda g, p: g | {"layers.1.weight": random(0, (3,))}, ValueError,
        r"grad 'layers.1.weight' must have its param's shape \(3, 3\), got \(3,\)",
    ),
    "of another dtype": (
        lambda g, p: g | {"layers.0.bias": random(0, (4,))}, TypeError,
        "grad 'layers.0.bias' must have its param's dtype float64, got float32",
    ),
    "an integer": (lambda g, p: g | {"head.0": np.array(1)}, TypeError, "grad 'head.0' must have its param's dtype"),
    "another's parameter": (
        lambda g, p: g | {"layers.1.weight": p["layers.0.weight"][:, :3]}, ValueError,
        "grad 'layers.1.weight' shares memory with param 'layers.0.weight'",
    ),
    "not a container": (lambda g, p: random(0), TypeError, "grads must be a list, tuple or dict .* got ndarray"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_GRADS)
def test_gradients_that_are_refused_leave_everything_as_it_was(optimizer, kind):
    make, error, message = BAD_GRADS[kind]
    kept = snapshot(optimizer)
    with pytest.raises(error, match=message):
        optimizer.step(make(grads_like(optimizer), optimizer.params))
    assert snapshot(optimizer) == kept


def test_a_parameter_that_becomes_read_only(optimizer):
    optimizer.params["empty"].flags.writeable = False
    optimizer.params["head.1"].flags.writeable = False
    kept = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"param 'head\.1' is read-only"):
        optimizer.step(grads_like(optimizer))
    assert snapshot(optimizer) == kept


def test_a_moment_that_was_changed(optimizer):
    optimizer.state["head.2"]["exp_avg_sq"] = np.zeros((2,), np.float32)
    kept = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"exp_avg_sq of 'head.2' must have shape \(2, 2\), got \(2,\)"):
        optimizer.step(grads_like(optimizer))
    assert snapshot(optimizer) == kept


def through_npz(form):
    file = io.BytesIO()
    np.savez(file, **form)
    file.seek(0)
    return np.load(file)


WAYS = {"itself": lambda form: form, "npz": through_npz, "safetensors": lambda form: load(save(form))}


@pytest.mark.parametrize("how", [*WAYS, "pickle", "deepcopy"])
def test_resuming_is_exact(how):
    options = {"lr": 0.05, "betas": (0.8, 0.95), "layer_axes": None, "weight_decay": 0.1, "cos_power": 1}
    if how not in WAYS:  # a copy of an array with gaps has none, and would go through the kernel from then on
        options["fused"] = False
    whole = SETAdam(model()[0], **options)
    stopped = SETAdam(model()[0], **options)
    for i in range(3):
        whole.step(grads_like(whole, i))
        stopped.step(grads_like(stopped, i))
    if how in WAYS:
        params = model()[0]
        resumed = SETAdam(params)
        for name, p in resumed.params.items():
            p[...] = stopped.params[name]
        resumed.load_state_dict(WAYS[how](stopped.state_dict()))
    else:
        resumed = pickle.loads(pickle.dumps(stopped)) if how == "pickle" else copy.deepcopy(stopped)
    assert snapshot(resumed)[1:] == snapshot(stopped)[1:]
    for i in range(3, 6):
        whole.step(grads_like(whole, i))
        resumed.step(grads_like(resumed, i))
        stopped.step(grads_like(stopped, i))
    assert snapshot(resumed) == snapshot(whole) == snapshot(stopped)


def test_options_come_back_with_their_types():
    one = SETAdam([{"params": [random(0)], "layer_axes": (1,), "fused": False}, {"params": [random(1)]}], maximize=True)
    two = SETAdam([{"params": [random(0)]}, {"params": [random(1)], "layer_axes": (0,)}])
    two.load_state_dict(through_npz(one.state_dict()))
    options = [{k: (x, type(x)) for k, x in g.items() if k not in ("params", "cos_power")} for g in two.param_groups]
    assert options == [
        {k: (x, type(x)) for k, x in g.items() if k not in ("params", "cos_power")} for g in one.param_groups
    ]


def test_a_state_dict_is_a_copy(optimizer):
    form = optimizer.state_dict()
    kept = {k: x.copy() for k, x in form.items()}
    optimizer.step(grads_like(optimizer))
    other = SETAdam(model()[0])
    other.load_state_dict(form)
    other.step(grads_like(other))
    assert all(np.array_equal(form[k], kept[k]) for k in kept)


BAD_STATES = {
    "a state missing": (lambda f: {k: x for k, x in f.items() if "head.1/" not in k}, KeyError, "no state for param"),
    "a state too many": (
        lambda f: f | {f"more/{k}": f[f"empty/{k}"] for k in ("exp_avg", "exp_avg_sq", "step")}, KeyError,
        "there is no param 'more' for this state",
    ),
    "half a state": (lambda f: without(f, "head.1/exp_avg"), ValueError, "'head.1' must have .* exp_avg is missing"),
    "a shape": (
        lambda f: f | {"head.1/exp_avg": np.zeros(4, np.float32)}, ValueError,
        r"exp_avg of 'head.1' must have shape \(5,\), got \(4,\)",
    ),
    "a dtype": (
        lambda f: f | {"head.1/exp_avg_sq": np.zeros(5)}, TypeError,
        "exp_avg_sq of 'head.1' must have dtype float32, got float64",
    ),
    "a count": (lambda f: f | {"head.1/step": np.array(-1)}, ValueError, "step of 'head.1' must be a whole number ≥ 0"),
    "an option": (lambda f: f | {"param_groups/0/tau": np.array(1.0)}, ValueError, r"tau must be in \[0, 1\), got 1.0"),
    "an unknown option": (lambda f: f | {"param_groups/0/amsgrad": np.array(True)}, TypeError, "no option 'amsgrad'"),
    "axes": (lambda f: f | {"param_groups/0/layer_axes": np.array([1])}, ValueError, "'layers.0.bias': layer_axes"),
    "groups": (lambda f: f | {"param_groups/1/lr": np.array(1.0)}, ValueError, "must have 1 groups, got 2"),
    "a key": (lambda f: f | {"version": np.array(1)}, ValueError, "a key must be <name>.*got 'version'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_STATES)
def test_a_state_that_does_not_fit_changes_nothing(optimizer, kind):
    change, error, message = BAD_STATES[kind]
    kept = snapshot(optimizer)
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(change(optimizer.state_dict()))
    assert snapshot(optimizer) == kept


def test_layer_statistics(optimizer):
    from setadam_core import Hyperparameters, State, trace

    before = copy.deepcopy(optimizer)
    grads = grads_like(optimizer, 3)
    optimizer.step(grads)
    found = optimizer.layer_statistics()
    assert list(found) == [name for name in optimizer.params if name != "empty"]
    name = "layers.0.bias"
    entry = before.state[name]
    state = State(entry["exp_avg"], entry["exp_avg_sq"], entry["step"])
    now = trace(before.params[name], grads[name], state, Hyperparameters(lr=0.1))
    expected = {
        "gamma": now.gamma, "w_min": now.w_min, "floor_share": np.mean(now.w <= 2**0.5 * 1e-4),
        "stepsize_min": now.stepsize.min(), "stepsize_max": now.stepsize.max(),
        "stepsize_mean": now.stepsize.mean(), "stepsize_std": now.stepsize.std(),
    }  # fmt: skip
    assert found[name] == pytest.approx({k: float(np.squeeze(x)) for k, x in expected.items()}, rel=1e-12)
    assert all(type(x) is float for x in found[name].values())


def test_layer_statistics_of_several_layers():
    optimizer = SETAdam({"w": random(0, (3, 4, 5))}, layer_axes=(1, 2))
    assert optimizer.layer_statistics() == {}
    optimizer.step({"w": random(1, (3, 4, 5))})
    assert {x.shape for x in optimizer.layer_statistics()["w"].values()} == {(3,)}
