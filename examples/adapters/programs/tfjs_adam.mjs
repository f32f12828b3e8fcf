/* TensorFlow.js's tf.train.adam, judged on its CPU backend.
 *
 *     npm install
 *     setadam-conformance run --backend cmd:"node tfjs_adam.mjs"
 */

import * as tf from "@tensorflow/tfjs";
import { serve } from "./line_protocol.mjs";

const claims = {
  name: "tfjs-adam",
  dtypes: ["float32"],
  options: ["empty", "many"],
  fixed: { cos_power: 0, tau: 0, eps_inside_sqrt: false, decoupled_weight_decay: false },
  corrections: "cancelling", // 1 - beta**t, of float32 scalars
  largest_t: 2 ** 31 - 1, // a saved step count is an int32
};

/* A state is loaded as users load one, with setWeights. It also forms the powers of beta that the optimizer keeps. */
async function step({ hp, t, layers }) {
  tf.engine().startScope();
  const optimizer = tf.train.adam(hp.lr, hp.beta1, hp.beta2, hp.eps);
  const named = (key) => layers.map((layer, i) => ({ name: `${key}${i}`, tensor: tf.tensor(layer[key], layer.shape) }));
  await optimizer.setWeights([{ name: "iter", tensor: tf.scalar(t, "int32") }, ...named("m"), ...named("v")]);
  const params = named("param").map(({ tensor }) => tf.variable(tensor));
  optimizer.applyGradients(named("grad").map(({ tensor }, i) => ({ name: params[i].name, tensor })));
  const [iterations, ...moments] = (await optimizer.getWeights()).map(({ tensor }) => tensor.dataSync());
  const after = params.map((param, i) => ({
    param: param.dataSync(),
    m: moments[i],
    v: moments[i + params.length],
  }));
  tf.disposeVariables();
  tf.engine().endScope();
  return { t: iterations[0], layers: after };
}

await tf.setBackend("cpu");
await serve(claims, step);
