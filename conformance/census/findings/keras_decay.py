"""Keras's AdamW decays float64 variables with float32 accuracy, on its torch backend.

1-ηλ is formed from the learning rate, which is a variable of float32, and is a float32 number. θ is off by up to a
relative 6e-8 in each step.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np

variable = keras.Variable([1.0], dtype="float64")
optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.3)
optimizer.build([variable])
optimizer.apply([keras.ops.zeros(1, dtype="float64")], [variable])
exact = 1 - float(np.float32(0.1)) * 0.3  # with the learning rate that Keras keeps
got = float(keras.ops.convert_to_numpy(variable)[0])
print(f"θ = 1 decays to {got!r}, exactly {exact!r}: off by {abs(got / exact - 1):.2g}")
