/* js-pytorch's torch.optim.Adam, judged on its CPU device. Its numbers are JavaScript's, which are float64.
 *
 *     npm install
 *     setadam-conformance run --backend cmd:"node js_pytorch_adam.mjs"
 */

import { torch } from "js-pytorch";
import { serve } from "./line_protocol.mjs";

/* It decays parameters as AdamW does. It has no bias correction, which no claim covers. */
const claims = {
  name: "js-pytorch-adam",
  dtypes: ["float64"],
  options: ["decoupled_weight_decay", "empty", "many"],
  fixed: { cos_power: 0, tau: 0, eps_inside_sqrt: false, decoupled_weight_decay: true },
};

function step({ hp, t, layers }) {
  const tensors = (key, isLeaf) => layers.map((layer) => torch.tensor(nested(layer[key], layer.shape), isLeaf));
  const params = tensors("param", true);
  const [grads, m, v] = ["grad", "m", "v"].map((key) => tensors(key, false));
  const optimizer = new torch.optim.Adam(params, hp.lr, hp.weight_decay, [hp.beta1, hp.beta2], hp.eps);
  params.forEach((param, i) => Object.assign(param, { _grad: grads[i], m: m[i], v: v[i] }));
  optimizer.step();
  const flat = (tensor) => tensor.data.flat(Infinity);
  const after = params.map((param) => ({ param: flat(param), m: flat(param.m), v: flat(param.v) }));
  return { t: t + 1, layers: after }; // it counts no steps
}

/* Arrays in arrays, which is how js-pytorch keeps a tensor. */
function nested(flat, shape) {
  if (shape.length === 0) return flat[0];
  if (shape.length === 1) return flat;
  const size = flat.length / shape[0];
  return Array.from({ length: shape[0] }, (_, i) => nested(flat.slice(i * size, (i + 1) * size), shape.slice(1)));
}

await serve(claims, step);
