"""pytorch_optimizer's QHAdam has float32 accuracy in float64.

The weight of the new gradient, 1/Σβⁱ, is kept in float32 for parameters of every dtype. The moments of float64
parameters are off by a relative 1e-9 or so after three steps.
"""

import pytorch_optimizer
import torch
from mpmath import mp, mpf

mp.dps = 30
param = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
optimizer = pytorch_optimizer.QHAdam([param], betas=(0.9, 0.999), nus=(1.0, 1.0))
for grad in (1.0, 2.0, 3.0):
    param.grad = torch.full_like(param, grad)
    optimizer.step()
b = mpf(0.9)
exact = (b * b * 1 + b * 2 + 3) / (1 + b + b * b)  # Adam's m̂ after these three gradients
got = mpf(optimizer.state[param]["exp_avg"].item())
print(f"m̂ is {mp.nstr(got, 17)}, exactly {mp.nstr(exact, 17)}: off by {mp.nstr(abs(got / exact - 1), 2)}")
