"""`model.fit`, files, mixed precision, and variables on several devices."""

import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import ops
from processes import Skipped

from setadam_keras import SETAdam

BACKEND = keras.backend.backend()
X = np.random.default_rng(2).normal(size=(32, 4)).astype("float32")
Y = (X @ np.array([[1.0], [-1.0], [0.5], [2.0]], "float32")).astype("float32")


def _model(optimizer, policy="float32"):
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        layers = [keras.layers.Input((4,)), keras.layers.Dense(8, activation="tanh")]
        model = keras.Sequential([*layers, keras.layers.Dense(1)])
        model.compile(optimizer=optimizer, loss="mse")
    finally:
        keras.config.set_dtype_policy(before)
    return model


def _fit(model, epochs=1):
    return model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0).history["loss"]


def _values(model):
    return [
        np.array(ops.convert_to_numpy(ops.cast(v, "float32"))) for v in (*model.weights, *model.optimizer.variables)
    ]


def training_goes_on_after_a_file():
    """A compiled model in a .keras file: the same bits as without, with averages, a schedule and accumulation."""
    for options in (
        # With averages, Keras 3.15 cannot call fit twice on JAX: its own Adam neither.
        {"weight_decay": 0.01, "use_ema": BACKEND != "jax", "layer_axes": {"kernel": (0,)}},
        {
            "learning_rate": keras.optimizers.schedules.CosineDecay(0.05, 20),
            "clipnorm": 1.0,
            "gradient_accumulation_steps": 2,
        },
    ):
        model = _model(SETAdam(**{"learning_rate": 0.02, **options}))
        losses = _fit(model, epochs=2)
        assert losses[1] < losses[0]
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / "model.keras")
            again = keras.models.load_model(Path(folder) / "model.keras")
        assert type(again.optimizer) is SETAdam
        assert again.optimizer.get_config() == model.optimizer.get_config()
        for a, b in zip(_values(model), _values(again), strict=True):
            assert np.array_equal(a, b)
        _fit(model)
        _fit(again)
        for a, b in zip(_values(model), _values(again), strict=True):
            assert np.array_equal(a, b)


def mixed_precision():
    """Policies that compute in 16 bits, and one whose variables are 16-bit: all moments are float32."""
    for policy, variables in {
        "mixed_float16": "float32",
        "mixed_bfloat16": "float32",
        "bfloat16": "bfloat16",
    }.items():
        model = _model(SETAdam(0.02), policy)
        losses = _fit(model, epochs=8)
        assert losses[-1] < losses[0], policy
        inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        assert (inner is not model.optimizer) == (policy == "mixed_float16")
        assert {keras.backend.standardize_dtype(v.dtype) for v in model.trainable_variables} == {variables}
        assert {keras.backend.standardize_dtype(v.dtype) for v in (*inner._momentums, *inner._velocities)} == {
            "float32"
        }


def average_at_the_end_of_fit():
    model = _model(SETAdam(0.02, use_ema=True, ema_momentum=0.9))
    _fit(model)
    for variable, average in zip(
        model.trainable_variables, model.optimizer._model_variables_moving_average, strict=True
    ):
        assert np.array_equal(variable.numpy(), average.numpy())


def frozen_layers_have_no_moments():
    model = _model(SETAdam(0.02))
    model.layers[0].trainable = False
    model.compile(optimizer=SETAdam(0.02), loss="mse")
    before = model.layers[0].get_weights()
    _fit(model)
    assert len(model.optimizer._momentums) == 2
    assert all(np.array_equal(a, b) for a, b in zip(before, model.layers[0].get_weights(), strict=True))


def outside_no_grad_nothing_is_kept():
    if BACKEND != "torch":
        raise Skipped("torch's")
    variable = keras.Variable(np.ones(3, "float32"))
    optimizer = SETAdam(0.01)
    optimizer.apply([ops.ones(3)], [variable])
    assert variable.value.requires_grad
    assert variable.value.is_leaf
    assert not any(v.value.requires_grad for v in optimizer.variables)


def eager_and_compiled_are_the_same_training():
    losses = []
    for eager in (True, False):
        model = _model(None)
        model.compile(optimizer=SETAdam(0.02, weight_decay=0.01), loss="mse", run_eagerly=eager)
        losses.append(_fit(model, epochs=2))
    np.testing.assert_allclose(
        *losses, rtol=1e-5
    )  # 8 steps; each differs by roundings, which training does not amplify


def sharded_variables():
    """Moments lie where their variable does; γ and the minimum are over the whole variable."""
    if BACKEND != "jax":
        raise Skipped("Keras distributes variables on jax alone")
    import jax

    alone = _model(SETAdam(0.02))
    start = alone.get_weights()
    _fit(alone, epochs=2)
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices=jax.devices()[:2])
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*hidden/kernel"] = (None, "model")
    with keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch").scope():
        layers = [keras.layers.Input((4,)), keras.layers.Dense(8, activation="tanh", name="hidden")]
        model = keras.Sequential([*layers, keras.layers.Dense(1)])
        model.compile(optimizer=SETAdam(0.02), loss="mse")
        model.set_weights(start)
        _fit(model, epochs=2)
        kernel = model.layers[0].kernel.value
        assert len(kernel.sharding.device_set) == 2
        for moments in (model.optimizer._momentums, model.optimizer._velocities):
            assert moments[0].value.sharding.is_equivalent_to(kernel.sharding, kernel.ndim)
            assert moments[0].value.addressable_shards[0].data.shape == (4, 4)
    for a, b in zip(alone.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_allclose(np.asarray(a.value), np.asarray(b.value), rtol=1e-4, atol=1e-5)  # as above


def tensorflow_mirrors_and_checkpoints():
    if BACKEND != "tensorflow":
        raise Skipped("TensorFlow's")
    import tensorflow as tf

    model = _model(SETAdam(0.02, layer_axes={"kernel": (0, 1)}))
    _fit(model)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tf.train.Checkpoint(model, optimizer=model.optimizer)
        path = checkpoint.save(str(Path(folder) / "checkpoint"))
        saved = _values(model)
        _fit(model)
        checkpoint.restore(path)
        for a, b in zip(saved, _values(model), strict=True):
            assert np.array_equal(a, b)
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with strategy.scope():
        mirrored = _model(SETAdam(0.02))
        bfloat16 = _model(SETAdam(0.02), "bfloat16")
    _fit(mirrored, epochs=1)
    _fit(bfloat16, epochs=1)
    for a, b in zip(saved, _values(mirrored), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
