/* Deepbox's Adam refuses a gradient that is not finite after it has taken half of the step.
 *
 * It looks at each number when its turn comes: the coordinates before the NaN, their moments and the step count have
 * changed by then. A caller that catches the error and goes on has a state that no sequence of gradients leads to.
 */

import { parameter, tensor } from "deepbox/ndarray";
import { Adam } from "deepbox/optim";

const x = parameter(tensor([0, 0], { dtype: "float64" }));
const optimizer = new Adam([x], { lr: 1e-3 });
x.setGrad(tensor([1, NaN], { dtype: "float64" }));
try {
  optimizer.step();
} catch (error) {
  console.log(`refused: ${error.message}`);
}
const { step, expAvg } = optimizer.stateDict().state[0].state;
console.log(`but θ is ${[...x.tensor.data]}, m is ${[...expAvg]}, and ${step} step was counted`);
