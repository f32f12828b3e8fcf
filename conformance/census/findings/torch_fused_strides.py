"""torch.optim.Adam(fused=True) on the CPU reads a gradient in memory order.

A gradient whose memory order is not the parameter's, here that of a transposed matrix, is applied to other
coordinates than its own. The loop and foreach paths follow the strides. Autograd gives gradients the parameter's
order; one that is assigned, or made by a hook, need not have it.
"""

import torch

grad = torch.tensor([[1.0, 2.0], [-3.0, 4.0]])
for fused in (False, True):
    param = torch.nn.Parameter(torch.zeros(2, 2))
    param.grad = grad.T.contiguous().T  # equal to grad, in Fortran order
    torch.optim.Adam([param], lr=1.0, fused=fused, foreach=False).step()
    print(f"fused={fused}: the first step is {(-param.detach()).round().tolist()}, the signs of {grad.tolist()}")
