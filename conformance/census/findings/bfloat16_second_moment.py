"""v in bfloat16 does not decay: 0.999 · 1 rounds to 1.

Moments of bfloat16 parameters are bfloat16 in torch and optax. With β₂ = 0.999, v decreases by less than half of a
unit in its last place, and rounds back. A parameter with large gradients once has small steps ever after. This is
within the bound of what is claimed (moments and arithmetic in the parameter's format): a consequence of the format,
and no fault of the step.
"""

import torch

param = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
optimizer = torch.optim.Adam([param])
for grad in (32.0, *[0.0] * 10_000):
    param.grad = torch.full_like(param, grad)
    optimizer.step()
    if grad:
        first = optimizer.state[param]["exp_avg_sq"].item()
last = optimizer.state[param]["exp_avg_sq"].item()
print(f"v is {first} after the first step and {last} after 10,000 without a gradient")
print(f"exactly: {first * 0.999**10_000:.3g}")
