"""SET-Adam for Keras 3: a `keras.optimizers.Optimizer` over `keras.ops`, on its torch, jax and tensorflow backends.

In this folder: `optimizer` (the class, and one step of one variable), `arrays` (what the specification needs of
`keras.ops`), `conformance` (the adapter for the kit). Not in it: a second statement of γ, and in the optimizer, an
import of torch, jax or tensorflow: Keras chooses between them, by KERAS_BACKEND.
"""

try:
    from keras import ops as _ops  # noqa: F401  (which Keras 2 does not have)
except ImportError as error:
    from setadam_core.extras import pip_install

    raise ImportError(
        'setadam_keras needs Keras 3 and the framework that KERAS_BACKEND names ("tensorflow" by default): '
        f'{pip_install("keras")}, and "torch", "jax" or "tensorflow" ({error})'
    ) from error

from setadam_keras.optimizer import SETAdam

__all__ = ["SETAdam"]
