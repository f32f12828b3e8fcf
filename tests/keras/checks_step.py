"""One step and its state: against the oracle and the specification, in each dtype, by variable and by layer."""

import re

import keras
import numpy as np
import pytest
from keras import ops
from processes import Skipped

from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.cases.strategies import defaults
from setadam_conformance.judging.bench import Bench, follow
from setadam_core import Hyperparameters, init, step
from setadam_keras import SETAdam
from setadam_keras.conformance import KerasAdapter

BACKEND = keras.backend.backend()


def _rng():
    return np.random.default_rng(0)


def _numpy(x):
    return np.array(ops.convert_to_numpy(ops.cast(x, "float32")))


def _apply(optimizer, variables, steps):
    for grads in steps:
        optimizer.apply([ops.convert_to_tensor(g) for g in grads], variables)


def golden_values_of_keras_own_test():
    """Ones, after one gradient of 0.01 and five of 0.1 to 1: each step within the bound of the oracle."""
    bench = Bench(KerasAdapter(), "float32")
    first, then = np.full(10, 0.01, np.float32), np.arange(1, 11, dtype=np.float32) / 10
    zero = np.zeros(10, np.float32)
    case = Case("float32", (LayerCase(np.ones(10, np.float32), first, zero, zero),), 0, defaults(lr=2.0**-10))
    for _ in range(6):
        answer = bench.step(case)
        bench.conform(case, answer)
        case = follow(case, answer, [then])
    assert case.t == 6
    assert np.all(case.layers[0].param < 1)


def steps_are_the_specifications():
    """Five steps of two variables; θ and the moments within some tens of roundings, as in tests/jax."""
    rng, hp = _rng(), {"tau": 0.25, "weight_decay": 0.125}
    start = [rng.normal(size=(3, 4)).astype("float32"), rng.normal(size=5).astype("float32")]
    grads = [[rng.normal(size=x.shape).astype("float32") for x in start] for _ in range(5)]
    for decoupled in (True, False):
        variables = [keras.Variable(x) for x in start]
        optimizer = SETAdam(2.0**-6, decoupled_weight_decay=decoupled, **hp)
        _apply(optimizer, variables, grads)
        exact = Hyperparameters(lr=2.0**-6, decoupled_weight_decay=decoupled, **hp)
        for i, x in enumerate(start):
            theta, state = x.astype("float64"), init(x.astype("float64"))
            for of_step in grads:
                theta, state = step(theta, of_step[i].astype("float64"), state, exact)
            u = 2.0**-24
            assert np.all(np.abs(_numpy(variables[i]) - theta) <= 60 * u * (np.abs(theta) + 5 * 4 * 2.0**-6))
            np.testing.assert_allclose(_numpy(optimizer._momentums[i]), state.m, rtol=0, atol=60 * u * 4)
            np.testing.assert_allclose(_numpy(optimizer._velocities[i]), state.v, rtol=60 * u)


def sixteen_bit_variables_are_rounded_once():
    """As a float32 variable with the same gradients is, after its step: weight decay is within the step."""
    x, g = _rng().normal(size=(2, 3, 4)).astype("float32")
    for dtype in ("bfloat16", "float16"):
        narrow = keras.Variable(x, dtype=dtype)
        wide = keras.Variable(_numpy(narrow), dtype="float32")
        for variable in (narrow, wide):
            optimizer = SETAdam(0.01, weight_decay=0.1)
            _apply(optimizer, [variable], [[g]])  # float32 gradients, which are not rounded either
            assert {str(v.dtype) for v in (*optimizer._momentums, *optimizer._velocities)} == {"float32"}
        assert keras.backend.standardize_dtype(narrow.dtype) == dtype
        assert np.array_equal(_numpy(narrow), _numpy(ops.cast(wide, dtype)))


def float64_is_float64():
    if BACKEND == "jax":
        raise Skipped("JAX has float64 only if it is told so")
    x, g = _rng().normal(size=(2, 3))
    variable, optimizer = keras.Variable(x, dtype="float64"), SETAdam(2.0**-6)
    _apply(optimizer, [variable], [[g]])
    expected, _ = step(x, g, init(x), Hyperparameters(lr=2.0**-6))
    np.testing.assert_allclose(ops.convert_to_numpy(variable), expected, rtol=1e-14)
    assert str(optimizer._velocities[0].dtype) == "float64"


def layer_axes_by_path():
    """Each slice of a stack is the layer that it would be as a variable; other variables are one layer."""
    x, g = _rng().normal(size=(2, 2, 3, 4)).astype("float32")
    stack, whole = (keras.Variable(x, name=name) for name in ("experts", "dense"))
    _apply(SETAdam(0.01, layer_axes={"expert": (1, -1), "^dense$": None}), [stack, whole], [[g, g]])
    slices = [keras.Variable(s) for s in x]
    _apply(SETAdam(0.01), slices, [list(g)])
    alone = keras.Variable(x)
    _apply(SETAdam(0.01, layer_axes=(0, 1, 2)), [alone], [[g]])
    ulps = {"rtol": 0, "atol": 60 * 2.0**-24 * 4}  # sums may be in another order
    np.testing.assert_allclose(_numpy(stack), np.stack([_numpy(s) for s in slices]), **ulps)
    np.testing.assert_allclose(_numpy(whole), _numpy(alone), **ulps)
    assert np.abs(_numpy(stack) - _numpy(whole)).max() > 1e-4


def scalars_and_nothing():
    """A scalar is a layer of one coordinate, whose first step is η/(1-τ); an array without elements stays."""
    scalar, empty = keras.Variable(1.0), keras.Variable(np.zeros((0, 3), "float32"))
    optimizer = SETAdam(2.0**-6)
    _apply(optimizer, [scalar, empty], [[np.float32(3), np.zeros((0, 3), "float32")]])
    np.testing.assert_allclose(float(_numpy(scalar)), 1 - 2 * 2.0**-6, rtol=1e-6)
    assert empty.shape == (0, 3)
    assert int(optimizer.iterations) == 1


def sparse_gradients_of_an_embedding():
    """A row that occurs twice has the sum of its gradients, and rows that do not occur move on by their momentum."""
    indices, table = np.array([[1, 1, 3]]), _rng().normal(size=(5, 2)).astype("float32")
    model = keras.Sequential([keras.layers.Input((3,), dtype="int32"), keras.layers.Embedding(5, 2)])
    model.layers[0].set_weights([table])
    model.compile(SETAdam(0.01, clipnorm=100.0), loss=lambda y, out: ops.sum(out, axis=(1, 2)))
    dense = keras.Variable(table)
    optimizer = SETAdam(0.01)
    counts = np.zeros((5, 2), "float32")
    counts[1], counts[3] = 2, 1
    for grad in (counts, counts[[0, 2, 1, 3, 4]]):
        model.train_on_batch(indices, np.zeros((1, 3, 2), "float32"))
        _apply(optimizer, [dense], [[grad]])
        indices = np.array([[2, 2, 3]])
    np.testing.assert_allclose(model.layers[0].get_weights()[0], _numpy(dense), rtol=0, atol=60 * 2.0**-24 * 4)


def a_refused_step_changes_nothing():
    x = np.ones((4, 1), "float32")
    variables = [keras.Variable(x, name="first"), keras.Variable(x, name="second")]
    optimizer = SETAdam(0.01)
    good = ops.ones((4, 1))
    optimizer.apply([good, good], variables)
    before = [v.numpy() for v in (*variables, *optimizer.variables)]
    for bad in (ops.ones((1, 4)), ops.ones(4), ops.ones((1, 1))):
        _refused(ValueError, "the gradient of 'second' must have shape (4, 1)", optimizer.apply, [good, bad], variables)
    _refused(ValueError, "one entry for each of 2 variables, got 1", optimizer.apply, [good], variables)
    optimizer.tau = 1.0
    _refused(ValueError, "tau must be in [0, 1), got 1.0", optimizer.apply, [good, good], variables)
    after = [v.numpy() for v in (*variables, *optimizer.variables)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    unbuilt = SETAdam(0.01)
    _refused(ValueError, "must have shape", unbuilt.apply, [ops.ones(4)], variables[:1])
    assert not unbuilt.built


def arguments_out_of_range():
    nan = float("nan")
    for name, values in {
        "learning_rate": (-0.1, nan, float("inf")),
        "beta_1": (1.0, -0.1, nan),
        "beta_2": (1.0, nan),
        "epsilon": (0.0, -1e-8, nan),
        "tau": (1.0, -0.5, nan),
        "weight_decay": (-0.01, nan),
        "cos_power": (-1.0,),
    }.items():
        for value in values:
            _refused(ValueError, f"{name} must be", SETAdam, **{name: value})
    _refused(TypeError, "beta_1 must be a real number", SETAdam, beta_1="0.9")
    _refused(TypeError, "decoupled_weight_decay must be True or False", SETAdam, decoupled_weight_decay=1)
    optimizer = SETAdam(0.5)
    _refused(ValueError, "learning_rate must be finite", setattr, optimizer, "learning_rate", -1.0)
    assert float(optimizer.learning_rate) == 0.5
    variable = keras.Variable(np.ones((2, 3), "float32"), name="kernel")
    _refused(ValueError, "epsilon must be at least", SETAdam(epsilon=1e-320).build, [variable])
    _refused(ValueError, "layer_axes must be None or distinct axes", SETAdam(layer_axes=(2,)).build, [variable])
    count = keras.Variable([1, 2], dtype="int32", name="count", trainable=False)
    _refused(TypeError, "'count' must be real", SETAdam().build, [count])


def _refused(kind, message, call, *args, **options):
    with pytest.raises(kind, match=re.escape(message)):
        call(*args, **options)
