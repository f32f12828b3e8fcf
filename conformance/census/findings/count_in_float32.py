"""torch.optim.Adam counts steps in float32, up to 2²⁴.

From 16,777,216 steps on, the count stays where it is. By then 1-βᵗ is 1 for every usual β, so θ is not affected; what
reads the count is.
"""

import torch

param = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.Adam([param])
param.grad = torch.ones(1)
optimizer.step()
optimizer.state[param]["step"].fill_(2**24)
optimizer.step()
print(f"after step {2**24 + 1} the count is {int(optimizer.state[param]['step'])}")
