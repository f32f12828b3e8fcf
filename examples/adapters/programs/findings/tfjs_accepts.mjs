/* TensorFlow.js's Adam checks no hyperparameter: a wrong one becomes NaN, or steps uphill, without a word. */

import * as tf from "@tensorflow/tfjs";

for (const [what, hyperparameters, gradient] of [
  ["a learning rate of NaN", [NaN, 0.9, 0.999, 1e-8], 1],
  ["a learning rate of -0.1", [-0.1, 0.9, 0.999, 1e-8], 1],
  ["β₂ = 1", [1e-3, 0.9, 1, 1e-8], 1],
  ["ε = 1e-320, which is 0 in float32, and g = 0", [1e-3, 0.9, 0.999, 1e-320], 0],
]) {
  const x = tf.variable(tf.tensor1d([0]));
  tf.train.adam(...hyperparameters).applyGradients([{ name: x.name, tensor: tf.tensor1d([gradient]) }]);
  console.log(`${what}: θ goes from 0 to ${x.dataSync()[0]}`);
}
