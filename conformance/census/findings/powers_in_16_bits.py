"""Powers of β in a 16-bit dtype: Keras's Adam and JAX's example do not move parameters in bfloat16.

Both form βᵗ in the variable's dtype. In bfloat16, β₂ = 0.999 is 1, so 1-β₂ᵗ is 0, and so is every step: in Keras
√(1-β₂ᵗ) is a factor of the step, in JAX's example v̂ = v/0 is infinite. Under Keras's policy "mixed_bfloat16"
variables are float32, and are not concerned; under "bfloat16" they are.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
import jax.numpy as jnp
import keras
from jax.example_libraries import optimizers

for dtype in ("float32", "bfloat16"):
    variable = keras.Variable([1.0], dtype=dtype)
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build([variable])
    init, update, get = optimizers.adam(0.1)
    state = init(jnp.ones(1, dtype))
    for i in range(100):
        optimizer.apply([keras.ops.ones(1, dtype=dtype)], [variable])
        state = update(i, jnp.ones(1, dtype), state)
    theta = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
    print(
        f"{dtype}: θ = 1 is {theta[0]:.3g} after 100 steps of 0.1 in Keras, {float(get(state)[0]):.3g} in JAX's example"
    )
