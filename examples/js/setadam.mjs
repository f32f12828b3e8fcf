/* SET-Adam in JavaScript, behind the line protocol of docs/conformance.md. The algorithm is the one of docs/play.md.
 *
 *     setadam-conformance run --backend cmd:"node examples/js/setadam.mjs"
 */

import { step } from "../../docs/_static/play/step.js";
import { serve } from "../adapters/programs/line_protocol.mjs";

const claims = {
  name: "setadam.mjs",
  dtypes: ["float64", "float32"],
  options: [
    "weight_decay",
    "decoupled_weight_decay",
    "maximize",
    "cos_power",
    "eps_inside_sqrt",
    "complex",
    "empty",
    "many",
  ],
};

/* No layer is written to, so a step that is refused in its last layer has changed nothing. */
function stepAll({ dtype, hp, t, layers }) {
  const after = layers.map(({ axes, param, grad, m, v }) => {
    if (axes !== null) throw new RangeError(`axes must be null: a layer is a whole array, got [${axes}]`);
    const { param: theta, state } = step(param, grad, { m, v, t }, hp, dtype);
    return { param: theta, ...state };
  });
  return { t: t + 1, layers: after };
}

await serve(claims, stepAll);
