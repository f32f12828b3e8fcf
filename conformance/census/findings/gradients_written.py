"""torch-optimi and pytorch_optimizer write p.grad.

torch-optimi adds coupled weight decay to the gradient in place, and pytorch_optimizer negates it in place for
maximize. A second step with the same gradients, and a logged gradient norm, are then wrong. torch.optim.Adam only
reads p.grad.
"""

import optimi
import pytorch_optimizer
import torch


def after(make):
    """The gradient after a step, which was 1."""
    param = torch.nn.Parameter(torch.ones(1))
    param.grad = torch.ones(1)
    make([param]).step()
    return param.grad.item()


print("torch.optim.Adam:", after(lambda p: torch.optim.Adam(p, weight_decay=0.5)))
print("optimi.Adam:", after(lambda p: optimi.Adam(p, lr=1e-3, weight_decay=0.5)))
print("pytorch_optimizer.QHAdam:", after(lambda p: pytorch_optimizer.QHAdam(p, maximize=True)))
