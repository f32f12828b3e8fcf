"""setadam_keras on each backend of Keras, each in a process of its own.

These are here and not in setadam_keras, whose import would load Keras into the kit's process, on one of its backends.
"""

from setadam_conformance.adapters.apart import Apart


class KerasTorch(Apart):
    """SETAdam on Keras's torch backend, eagerly, as `fit` runs there."""

    name = "keras:torch"
    framework = "keras"
    target = "setadam_keras.conformance:KerasAdapter"
    needs = ("keras", "torch")
    environment = (("KERAS_BACKEND", "torch"),)


class KerasJAX(KerasTorch):
    """SETAdam on Keras's jax backend, compiled, as `fit` runs there."""

    name = "keras:jax"
    needs = ("keras", "jax")
    environment = (("KERAS_BACKEND", "jax"),)


class KerasTensorFlow(KerasTorch):
    """SETAdam on Keras's tensorflow backend, operation by operation."""

    name = "keras:tensorflow"
    needs = ("keras", "tensorflow")
    environment = (("KERAS_BACKEND", "tensorflow"),)
