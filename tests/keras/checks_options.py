"""What every optimizer of Keras has: its own tests' pattern, with exact statements in place of golden numbers."""

import pickle
import warnings

import keras
import numpy as np
from keras import ops

from setadam_keras import SETAdam

GRADS = np.random.default_rng(1).normal(size=(6, 2, 3)).astype("float32")
START = np.array([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]], "float32")


def _run(optimizer, grads=GRADS):
    variable = keras.Variable(START, name="kernel")
    for g in grads:
        optimizer.apply([ops.convert_to_tensor(g)], [variable])
    return variable.numpy()


def _same(a, b, roundings=0):
    np.testing.assert_allclose(a, b, rtol=0, atol=roundings * 2.0**-24 * 4)


def config_and_registration():
    """The class round trip of Keras's `run_class_serialization_test`."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    given = {
        "learning_rate": schedule,
        "beta_1": 0.5,
        "beta_2": 0.67,
        "epsilon": 1e-5,
        "tau": 0.25,
        "weight_decay": 0.1,
        "decoupled_weight_decay": False,
        "layer_axes": {"experts/kernel": (1, 2), "bias": None},
        "cos_power": 4,
        "eps_inside_sqrt": False,
        "clipnorm": 1.0,
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 3,
        "loss_scale_factor": 8.0,
        "gradient_accumulation_steps": 2,
        "name": "mine",
    }
    optimizer = SETAdam(**given)
    config = optimizer.get_config()
    assert given.keys() <= config.keys()
    serialized = keras.optimizers.serialize(optimizer)
    assert serialized["registered_name"] == "setadam>SETAdam"
    for other in (
        SETAdam.from_config(dict(config)),  # Keras writes into it
        keras.optimizers.deserialize(serialized),
        keras.optimizers.get(serialized),
        pickle.loads(pickle.dumps(optimizer)),
    ):
        assert type(other) is SETAdam
        assert other.get_config() == config
        assert dir(other) == dir(optimizer)
    assert SETAdam().get_config()["weight_decay"] is None


def weight_decay_is_decoupled_and_can_exclude():
    """A zero gradient leaves θ(1 - ηλ), also where a name or a variable is not excluded."""
    grads = ops.zeros(())
    for exclude in ({}, {"var_names": ["exclude"]}, {"var_list": True}):
        decaying, excluded = keras.Variable(2.0), keras.Variable(2.0, name="exclude")
        optimizer = SETAdam(1.0, weight_decay=0.004)
        if exclude:
            optimizer.exclude_from_weight_decay(**({"var_list": [excluded]} if "var_list" in exclude else exclude))
        optimizer.apply_gradients([(grads, decaying), (grads, excluded)])
        np.testing.assert_allclose(float(decaying.numpy()), 1.992, rtol=1e-7)
        assert float(excluded.numpy()) == (2.0 if exclude else float(decaying.numpy()))


def coupled_decay_is_part_of_the_gradient():
    """λθ added to the gradient, in the variables that decay."""
    decay = 0.25
    _same(
        _run(SETAdam(0.5, weight_decay=decay, decoupled_weight_decay=False), GRADS[:1]),
        _run(SETAdam(0.5), [GRADS[0] + decay * START]),
    )
    optimizer = SETAdam(0.5, weight_decay=decay, decoupled_weight_decay=False)
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    _same(_run(optimizer), _run(SETAdam(0.5)))


def clipping():
    """As with gradients that are clipped beforehand."""
    g = GRADS[0]
    norm = np.linalg.norm(g)
    assert norm > 0.5
    for option, clipped in {
        "clipnorm": g * (0.5 / norm),
        "global_clipnorm": g * (0.5 / norm),
        "clipvalue": np.clip(g, -0.5, 0.5),
    }.items():
        _same(_run(SETAdam(0.01, **{option: 0.5}), [g]), _run(SETAdam(0.01), [clipped]), roundings=60)
        assert (
            np.abs(_run(SETAdam(0.01, epsilon=1.0, **{option: 0.5}), [g]) - _run(SETAdam(0.01, epsilon=1.0), [g])).max()
            > 1e-4
        )
    (clipped,) = SETAdam(clipnorm=1)._clip_gradients([ops.convert_to_tensor([100.0, 100.0])])
    np.testing.assert_allclose(ops.convert_to_numpy(clipped), [2**0.5 / 2] * 2, rtol=1e-6)


def moving_average():
    """It begins with the first new value; the model has it at the end, or every few steps."""
    optimizer = SETAdam(0.25, use_ema=True, ema_momentum=0.5)
    variable, plain = keras.Variable(START), SETAdam(0.25)
    grads = ops.convert_to_tensor(GRADS[0])
    optimizer.apply_gradients([(grads, variable)])
    first = variable.numpy()
    _same(first, _run(plain, GRADS[:1]))
    optimizer.apply_gradients([(grads, variable)])
    average = 0.5 * first + 0.5 * variable.numpy()
    _same(optimizer._model_variables_moving_average[0].numpy(), average, roundings=2)
    optimizer.finalize_variable_values([variable])
    _same(variable.numpy(), average, roundings=2)
    often = _run(SETAdam(0.25, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2), GRADS[[0, 0]])
    _same(often, average, roundings=2)


def gradient_accumulation_is_the_mean():
    """Three gradients are one step with their mean: moments, decay and bias correction, too."""
    of_three = SETAdam(0.01, weight_decay=0.1, gradient_accumulation_steps=3)
    one = SETAdam(0.01, weight_decay=0.1)
    _same(_run(of_three), _run(one, GRADS.reshape(2, 3, 2, 3).mean(axis=1)), roundings=60)
    assert int(ops.convert_to_numpy(of_three.iterations)) == int(one.iterations.numpy()) == 2
    _same(_run(SETAdam(0.01, weight_decay=0.1, gradient_accumulation_steps=3), GRADS[:2]), START)


def loss_scaling():
    """A power of two scales no rounding. A step that is not finite is left out, and the scale halved."""
    _same(_run(SETAdam(0.01, loss_scale_factor=1024.0), GRADS * 1024), _run(SETAdam(0.01)))
    if keras.backend.backend() == "jax":
        return  # LossScaleOptimizer is for `fit` there: see checks_training.mixed_precision
    inner = SETAdam(0.01)
    outer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)
    got = _run(outer, [GRADS[0] * 4, GRADS[1] * np.float32(np.inf), GRADS[1] * 2])
    _same(got, _run(SETAdam(0.01), GRADS[:2]))
    assert int(inner.iterations.numpy()) == 2


def learning_rates():
    """Schedules and functions are asked in each step; a number can be set."""
    rates = [0.5, 0.25, 0.125]
    expected = SETAdam(rates[0])
    variable = keras.Variable(START)
    for rate, g in zip(rates, GRADS, strict=False):
        expected.learning_rate = rate
        expected.apply([ops.convert_to_tensor(g)], [variable])
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5, staircase=True)
    _same(_run(SETAdam(schedule), GRADS[:3]), variable.numpy(), roundings=8)
    left = iter(rates)
    if keras.backend.backend() != "tensorflow":
        _same(_run(SETAdam(lambda: next(left)), GRADS[:3]), variable.numpy())
    optimizer = SETAdam(0.5)
    assert len(optimizer.variables) == 2
    optimizer.learning_rate = schedule
    assert len(optimizer.variables) == 1


def variables_without_a_gradient_stay():
    first, second = keras.Variable(START), keras.Variable(START)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SETAdam(0.01).apply([None, ops.convert_to_tensor(GRADS[0])], [first, second])
    assert any("Gradients do not exist" in str(w.message) for w in caught)
    _same(first.numpy(), START)
    _same(second.numpy(), _run(SETAdam(0.01), GRADS[:1]))


def constraints_and_weights():
    variable = keras.Variable(START)
    variable.constraint = keras.constraints.NonNeg()
    optimizer = SETAdam(0.01)
    optimizer.apply([ops.convert_to_tensor(GRADS[0])], [variable])
    assert variable.numpy().min() == 0
    other = SETAdam(0.01)
    other.build([variable])
    other.set_weights([v.numpy() for v in optimizer.variables])
    for a, b in zip(optimizer.variables, other.variables, strict=True):
        assert np.array_equal(a.numpy(), b.numpy())
