/* js-pytorch's Adam has no bias correction: the first step is (1-β₁)/√(1-β₂) times that of Adam, 3.16 for β = 0.9 and
 * 0.999.
 *
 * With a gradient that stays the same, the twelfth step is the longest, 6.57 times that of Adam, and the difference is
 * below 1e-4 of it from the 10,000th on. With β₁ = β₂ = 0, where the corrections are 1, its arithmetic conforms.
 */

import { torch } from "js-pytorch";

const x = torch.tensor([0], true);
const optimizer = new torch.optim.Adam([x], 1e-3, 0, [0.9, 0.999], 1e-8);
x._grad = torch.tensor([1]);
for (let t = 1; t <= 10000; t++) {
  const [before] = x.data;
  optimizer.step();
  const moved = (before - x.data[0]).toFixed(7);
  if ([1, 12, 100, 1000, 10000].includes(t)) console.log(`step ${t}: ${moved}, Adam's 0.0010000`);
}
