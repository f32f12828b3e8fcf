"""After one large gradient a coordinate never moves again, and nothing says so.

g² overflows in float32 from |g| = 1.8e19 up. Then v is infinite and stays so, m/√v is 0, and θ stays where it is: no
NaN, no warning. This follows from the formulas, and is the same in every Adam that squares gradients in float32.
"""

import torch

param = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.Adam([param], lr=1.0)
for grad in (2e22, *[1.0] * 1000):
    param.grad = torch.full_like(param, grad)
    optimizer.step()
print(f"after a gradient of 2e22 and 1000 of 1: v = {optimizer.state[param]['exp_avg_sq'].item()}, θ = {param.item()}")
