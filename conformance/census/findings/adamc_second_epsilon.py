"""pytorch_optimizer's AdamC has a second ε, 1e-15 under the root, that no option sets.

Its denominator is √(v + 1e-15) + ε. Where gradients are below 1e-6 or so, it is another optimizer than the one that
its ε describes: the smaller the gradient, the smaller the step.
"""

import pytorch_optimizer
import torch

for gradient in (1e-3, 1e-6, 1e-8):
    param = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    param.grad = torch.full_like(param, gradient)
    pytorch_optimizer.AdamC([param], lr=1.0, eps=1e-30, foreach=False).step()
    print(f"first step from a gradient of {gradient}: {-param.item():.6f}, without the second ε 1.000000")
