"""Keras keeps the learning rate in float32, also for float64 variables.

Its steps in float64 are those of the learning rate that is rounded to float32: 1.5e-8 off, for 0.1. The claim
`float32_scalars = ("lr",)` says so, and then they are within the bound.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras

variable = keras.Variable([0.0], dtype="float64")
optimizer = keras.optimizers.Adam(0.1, epsilon=1e-300)
optimizer.build([variable])
optimizer.apply([keras.ops.ones(1, dtype="float64")], [variable])
step = -float(keras.ops.convert_to_numpy(variable)[0])
print(f"the first step with lr = 0.1 is {step!r}, off by {abs(step - 0.1) / 0.1:.2g}")
