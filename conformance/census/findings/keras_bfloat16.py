"""Keras's Adam does not move variables in bfloat16.

The powers of β are formed in the variable's dtype. In bfloat16, β₂ = 0.999 is 1, so √(1-β₂ᵗ) is 0, and so is every
step. Under the policy "mixed_bfloat16" variables are float32, and are not concerned; under "bfloat16" they are.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras

for dtype in ("float32", "bfloat16"):
    variable = keras.Variable([1.0], dtype=dtype)
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build([variable])
    for _ in range(100):
        optimizer.apply([keras.ops.ones(1, dtype=dtype)], [variable])
    theta = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
    print(f"{dtype}: θ is 1 before, and {theta[0]:.3g} after 100 steps of 0.1")
