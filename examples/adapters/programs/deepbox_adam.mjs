/* Deepbox's Adam and AdamW, with parameters of float64: its moments are always float64.
 *
 *     npm install
 *     setadam-conformance run --backend cmd:"node deepbox_adam.mjs adamw"
 */

import { parameter, reshape, tensor } from "deepbox/ndarray";
import { Adam, AdamW } from "deepbox/optim";
import { serve } from "./line_protocol.mjs";

const kind = process.argv[2];
if (kind !== "adam" && kind !== "adamw") throw new Error(`the argument must be adam or adamw, got ${kind}`);
const decoupled = kind === "adamw";
const Optimizer = decoupled ? AdamW : Adam;

const claims = {
  name: `deepbox-${kind}`,
  dtypes: ["float64"],
  options: [decoupled ? "decoupled_weight_decay" : "weight_decay", "empty", "many"],
  fixed: { cos_power: 0, tau: 0, eps_inside_sqrt: false, decoupled_weight_decay: decoupled },
  corrections: "cancelling", // 1 - beta ** t
};

function step({ hp, t, layers }) {
  const array = (flat, shape) => reshape(tensor(flat, { dtype: "float64" }), shape);
  const params = layers.map(({ param, shape }) => parameter(array(param, shape)));
  params.forEach((param, i) => param.setGrad(array(layers[i].grad, layers[i].shape)));
  const { lr, beta1, beta2, eps, weight_decay: weightDecay } = hp;
  const optimizer = new Optimizer(params, { lr, beta1, beta2, eps, weightDecay });
  const before = ({ m, v }) => ({ step: t, expAvg: Float64Array.from(m), expAvgSq: Float64Array.from(v) });
  optimizer.loadStateDict({ state: layers.map((layer, paramId) => ({ paramId, state: before(layer) })) });
  optimizer.step();
  const states = optimizer.stateDict().state.map(({ state }) => state);
  const after = params.map(({ tensor: { data } }, i) => ({ param: data, m: states[i].expAvg, v: states[i].expAvgSq }));
  return { t: states[0].step, layers: after };
}

await serve(claims, step);
