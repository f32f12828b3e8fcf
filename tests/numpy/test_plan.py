"""Steps that take over the checks of the one before: they do what a step with all checks does, whatever changed."""

import copy
import pickle
import warnings
import weakref
from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setadam_core.inplace.checks import Checks
from setadam_numpy import SETAdam, headers

pytestmark = pytest.mark.skipif(not headers.available(), reason="headers cannot be read on this Python")


class Careful(SETAdam):
    """Makes all checks in every step."""

    def _step_again(self, grads):
        self._forget()
        return False


def values(seed, shape, dtype=np.float32):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


SHAPES = {"a": (3, 3), "b": (4,), "c": (2, 3, 2), "d": (2, 2), "e": (0, 3), "f": (), "g": (3, 3), "h": (1, 4)}
DTYPES = {"b": np.float64, "d": np.complex64, "f": np.float64, "h": ml_dtypes.bfloat16}


def made(kind, fused=None):
    arrays = {k: values(i, shape, DTYPES.get(k, np.float32)) for i, (k, shape) in enumerate(SHAPES.items())}
    arrays["g"] = np.asfortranarray(arrays["g"])
    first = {k: arrays.pop(k) for k in "cf"}
    groups = [{"params": arrays}, {"params": first, "lr": 0.5, "layer_axes": [0]}]
    groups[1]["params"] = {"c": first["c"]}
    arrays["f"] = first["f"]
    return kind(groups, lr=0.1, betas=[0.9, 0.99], fused=fused)


def gradients(optimizer, seed):
    grads = {k: values(seed + i, p.shape).astype(p.dtype) for i, (k, p) in enumerate(optimizer.params.items())}
    return {k: g.copy(order="F") if k in "gc" and seed % 2 else g for k, g in grads.items()}


def group_of(optimizer, name):
    return next(group for group in optimizer.param_groups if name in group["params"])


# Each changes an optimizer or the gradients of one step, and returns how to take it back, or None.


def attribute(field, name, value):
    """Set what NumPy allows to be set of an array in place."""

    def change(optimizer, grads, layer):
        x = array(optimizer, field, layer)
        if not isinstance(x, np.ndarray):
            return None
        owner, before = (x.flags, x.flags.writeable) if name == "writeable" else (x, getattr(x, name))
        new = value(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                setattr(owner, name, new)
            except (AttributeError, TypeError, ValueError):  # not of this array
                return None

        def back():
            with warnings.catch_warnings(), suppress(ValueError):
                warnings.simplefilter("ignore", DeprecationWarning)
                setattr(owner, name, before)

        return back

    return change


def array(optimizer, field, layer):
    return optimizer.params[layer] if field == "param" else optimizer.state[layer][field]


def replaced(field, new):
    def change(optimizer, grads, layer):
        entries, key = (
            (group_of(optimizer, layer)["params"], layer) if field == "param" else (optimizer.state[layer], field)
        )
        before = entries[key]
        entries[key] = new(before) if isinstance(before, np.ndarray) or field == "step" else before

        def back():
            entries[key] = before

        return back

    return change


def option(name, value):
    def change(optimizer, grads, layer):
        group = group_of(optimizer, layer)
        before = group[name]
        group[name] = value

        def back():
            group[name] = before

        return back

    return change


def unknown_option(optimizer, grads, layer):
    group = group_of(optimizer, layer)
    group["lrr"] = 1
    return lambda: group.pop("lrr")


def betas_in_place(optimizer, grads, layer):
    group = group_of(optimizer, layer)
    group["betas"] = list(group["betas"])
    group["betas"][0] = 0.5


def axes_in_place(optimizer, grads, layer):
    axes = optimizer.param_groups[1]["layer_axes"]
    axes[0] = 1 - axes[0]


def resized(optimizer, grads, layer):
    for x in (array(optimizer, field, layer) for field in ("param", "exp_avg", "exp_avg_sq")):
        if isinstance(x, np.ndarray) and x.flags.owndata:
            with suppress(ValueError):  # where strides were set
                x.resize((x.shape[0] + 500, *x.shape[1:]) if x.ndim else x.shape, refcheck=False)  # it moves
    grads[layer] = values(7, optimizer.params[layer].shape).astype(grads[layer].dtype)


def gradient(new):
    def change(optimizer, grads, layer):
        grads[layer] = new(grads[layer], optimizer, layer)

    return change


def swapped(x):
    """The dtype in the other byte order. Not of bfloat16: pickling that one would change bfloat16 itself."""
    return x.dtype if x.dtype.kind == "V" else x.dtype.newbyteorder("S")


def misaligned(g, *_):
    memory = np.zeros(g.nbytes + 1, np.uint8)
    view = memory[1:].view(g.dtype).reshape(g.shape)
    view[...] = g
    return view


def spread(g, *_):
    wide = np.zeros([2 * n for n in g.shape], g.dtype)[(*(slice(None, None, 2) for _ in g.shape), ...)]
    wide[...] = g
    return wide


def elsewhere(g, optimizer, layer):
    """In the memory of an array that is written."""
    m = np.asarray(optimizer.state["a"]["exp_avg"]).reshape(-1)[:4]
    return m.view(g.dtype)[: g.size].reshape(g.shape) if m.nbytes >= g.nbytes and g.flags.c_contiguous else m


def missing(optimizer, grads, layer):
    del grads[layer]


def surplus(optimizer, grads, layer):
    grads["more"] = np.ones(3)


CHANGES = {
    "nothing": lambda *_: None,
    **{f"{k} copied": replaced(k, np.copy) for k in ("param", "exp_avg", "exp_avg_sq")},
    **{f"{k} turned": replaced(k, lambda x: x.copy(order="F")) for k in ("param", "exp_avg", "exp_avg_sq")},
    **{f"{k} of a subclass": replaced(k, lambda x: x.view(np.recarray)) for k in ("param", "exp_avg")},
    **{f"{k} is a list": replaced(k, lambda x: x.tolist()) for k in ("param", "exp_avg")},
    **{f"{k} read-only": attribute(k, "writeable", lambda x: False) for k in ("param", "exp_avg", "exp_avg_sq")},
    **{f"{k}.shape": attribute(k, "shape", lambda x: (x.size, 1)) for k in ("param", "exp_avg", "exp_avg_sq")},
    **{f"{k}.dtype": attribute(k, "dtype", lambda x: f"i{x.itemsize}") for k in ("param", "exp_avg")},
    **{f"{k}.byteorder": attribute(k, "dtype", swapped) for k in ("param", "exp_avg")},
    **{f"{k}.strides": attribute(k, "strides", lambda x: x.strides[::-1]) for k in ("param", "exp_avg", "exp_avg_sq")},
    **{f"{k}.strides 0": attribute(k, "strides", lambda x: (0,) * x.ndim) for k in ("param", "exp_avg", "exp_avg_sq")},
    "the m of another": lambda o, g, layer: replaced("exp_avg", lambda x: o.state["a"]["exp_avg"])(o, g, layer),
    "resized": resized,
    "lr": option("lr", 0.01),
    "an lr of 0-d": option("lr", np.array(0.1)),
    "a bad tau": option("tau", 1.0),
    "an eps that underflows": option("eps", 1e-40),
    "an lr of True": option("lr", True),
    "an unknown option": unknown_option,
    "betas in place": betas_in_place,
    "layer_axes": option("layer_axes", (-1,)),
    "bad layer_axes": option("layer_axes", (True,)),
    "layer_axes in place": axes_in_place,
    "fused=False": option("fused", False),
    "fused=True": option("fused", True),
    "fused=0": option("fused", 0),
    **{
        f"step = {t!r}": replaced("step", lambda x, t=t: t)
        for t in (0, 7, np.int64(4), True, -1, 2.0, 1 << 53, (1 << 63) - 1)
    },
    "grad turned": gradient(lambda g, *_: g.copy(order="F")),
    "grad in C's order": gradient(lambda g, *_: g.copy(order="C")),
    "grad backwards": gradient(lambda g, *_: np.flip(np.flip(g).copy())),
    "grad misaligned": gradient(misaligned),
    "grad with gaps": gradient(spread),
    "grad read-only": gradient(lambda g, *_: np.broadcast_to(g.reshape(-1)[:1].reshape((1,) * g.ndim), g.shape)
                               if g.size else g),
    "grad of another shape": gradient(lambda g, *_: g[None]),
    "grad with axes swapped": gradient(lambda g, *_: g.reshape(g.shape[::-1])),
    "grad of another dtype": gradient(lambda g, *_: g.astype(np.complex128)),
    "grad of integers": gradient(lambda g, *_: g.view(f"i{g.itemsize}") if g.dtype.kind == "f" else g.real),
    "grad in other bytes": gradient(lambda g, *_: g.astype(swapped(g))),
    "grad unpickled": gradient(lambda g, *_: pickle.loads(pickle.dumps(g))),
    "grad of a subclass": gradient(lambda g, *_: g.view(np.recarray)),
    "a matrix": gradient(lambda g, *_: g.view(np.matrix) if g.ndim == 2 else g),
    "masked": gradient(lambda g, *_: np.ma.array(g)),
    "a scalar": gradient(lambda g, *_: g.reshape(-1)[0] if g.size else None),
    "None": gradient(lambda g, *_: None),
    "a list": gradient(lambda g, *_: g.tolist()),
    "the param": gradient(lambda g, o, layer: o.params[layer]),
    "the param turned": gradient(lambda g, o, layer: o.params[layer].T),
    "the param backwards": gradient(lambda g, o, layer: np.flip(o.params[layer])),
    "the param of another": gradient(lambda g, o, layer: o.params["a"]),
    "memory that is written": gradient(elsewhere),
    "missing": missing,
    "surplus": surplus,
}  # fmt: skip


def outcome(optimizer, grads, change, layer, take_back):
    """What a step raises, and all that it may have changed. A change that is refused is taken back."""
    back = change(optimizer, grads, layer)
    try:
        optimizer.step(grads)
        raised = None
    except Exception as error:
        raised = type(error), str(error)
        take_back = True
    arrays = {k: [p, *optimizer.state[k].values()] for k, p in optimizer.params.items()}
    seen = {k: [(repr(x), x.tobytes() if isinstance(x, np.ndarray) else x) for x in xs] for k, xs in arrays.items()}
    if back and take_back:
        back()
    return raised, seen


@settings(deadline=None, max_examples=80)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(sorted(CHANGES)), st.sampled_from(sorted(SHAPES)), st.booleans()), max_size=8
    ),
    fused=st.sampled_from([None, False]),
)
def test_steps_are_as_with_all_checks(steps, fused):
    pair = made(SETAdam, fused), made(Careful, fused)
    for seed, (name, layer, take_back) in enumerate([("nothing", "a", True), *steps, ("nothing", "a", True)]):
        planned, careful = (outcome(x, gradients(x, seed), CHANGES[name], layer, take_back) for x in pair)
        assert planned == careful, (name, layer)


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_of_each_layer(name):
    for layer in SHAPES:
        pair = made(SETAdam), made(Careful)
        for seed, change in enumerate(("nothing", "nothing", name, "nothing")):
            planned, careful = (outcome(x, gradients(x, seed), CHANGES[change], layer, True) for x in pair)
            assert planned == careful, layer


@pytest.fixture
def no_checks(monkeypatch):
    """From here on, a step with all checks fails."""
    return lambda: monkeypatch.setattr(Checks, "states", lambda *args: pytest.fail("all checks were made"))


SHORT = ["nothing", "lr", "betas in place", "step = 7", "grad turned", "grad misaligned", "grad with gaps",
         "grad read-only", "grad unpickled", "grad of a subclass", "a matrix", "the param"]  # fmt: skip


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("name", SHORT)
def test_what_needs_no_check_again(name, fused):
    for layer in SHAPES:
        optimizer = made(SETAdam, fused)
        optimizer.step(gradients(optimizer, 0))
        grads = gradients(optimizer, 1)
        CHANGES[name](optimizer, grads, layer)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checks, "states", lambda *args: pytest.fail("all checks were made"))
            optimizer.step(grads)
            optimizer.step(gradients(optimizer, 2))


def test_scalars_and_other_orders_of_a_dict(no_checks):
    params = {"a": np.array(1.0), "b": np.ones(3), "c": np.ones(2)}
    optimizer, grads = SETAdam(params), {"b": np.ones(3), "a": np.float64(2), "c": np.ones(2)}
    optimizer.step(grads)
    no_checks()
    optimizer.step(grads)
    assert optimizer.state["a"]["exp_avg"] == pytest.approx(2 * (1 - 0.9**2))
    assert optimizer.state["b"]["exp_avg"] == pytest.approx(1 - 0.9**2)


def test_one_or_two_layers_are_checked_in_each_step():
    """They take less time one after the other than all at once."""
    for count, planned in ((1, False), (2, False), (3, True)):
        optimizer = SETAdam([np.ones(3) for _ in range(count)])
        optimizer.step([np.ones(3)] * count)
        assert (optimizer._plan is not None) is planned


def test_a_container_of_another_kind():
    params = [values(0, (3,)), values(1, (2, 2)), values(4, (1,))]
    one, two = (kind([p.copy() for p in params]) for kind in (SETAdam, Careful))
    grads = [values(2, (3,)), values(3, (2, 2)), values(5, (1,))]
    others = dict(enumerate(grads)), {"2": grads[2], "1": grads[1], "0": grads[0]}
    for container in (grads, tuple(grads), *others, grads[::1]):
        for optimizer in (one, two):
            optimizer.step(container)
        assert all(map(np.array_equal, one.params.values(), two.params.values()))
    with pytest.raises(KeyError, match="the one for '1' is missing"):
        one.step({"0": grads[0]})


def test_copies_and_new_groups_start_with_all_checks(no_checks):
    optimizer = made(SETAdam)
    optimizer.step(gradients(optimizer, 0))
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        same = made(Careful)
        for one in (other, same):
            for seed in (0, 1, 2) if one is same else (1, 2):
                one.step(gradients(one, seed))
        assert all(np.array_equal(other.params[k], same.params[k]) for k in SHAPES)
    optimizer.add_param_group({"params": {"new": np.ones(3)}})
    optimizer.step(gradients(optimizer, 1))
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step(gradients(optimizer, 2))
    no_checks()
    optimizer.step(gradients(optimizer, 3))
    assert optimizer.state["new"]["step"] == 3


def test_gradients_are_not_kept():
    optimizer = made(SETAdam)
    for seed in range(3):
        grads = gradients(optimizer, seed)
        seen = [weakref.ref(g) for g in grads.values()]
        optimizer.step(grads)
        del grads
        assert not any(ref() is not None for ref in seen)


def test_a_refused_option_is_refused_until_it_is_mended(no_checks):
    optimizer = made(SETAdam)
    optimizer.step(gradients(optimizer, 0))
    optimizer.param_groups[1]["tau"] = 1.0
    for _ in range(2):
        with pytest.raises(ValueError, match=r"tau must be in \[0, 1\), got 1.0"):
            optimizer.step(gradients(optimizer, 1))
    optimizer.param_groups[1]["tau"] = 0.25
    no_checks()
    optimizer.step(gradients(optimizer, 1))
    assert {entry["step"] for entry in optimizer.state.values()} == {2}
