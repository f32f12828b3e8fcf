"""1 - β**t in float32 is inexact in the first steps.

Where 1-βᵗ is formed in float32 from a rounded β, the first step is off by a relative 7e-6 for the default β₂ = 0.999,
and by 0.66 % for β₂ = 0.999999. In float64, as torch forms it, the same expression loses nothing that a float32 step
could show.
"""

import jax.numpy as jnp
import optax
import torch
from mpmath import mp, mpf

mp.dps = 30
for b2 in (0.999, 0.999999):
    chain = optax.adam(1.0, b2=b2, eps=0.0)
    param = jnp.zeros(1, jnp.float32)
    step = -float(chain.update(jnp.ones(1, jnp.float32), chain.init(param))[0][0])
    theirs = torch.nn.Parameter(torch.zeros(1))
    theirs.grad = torch.ones(1)
    torch.optim.Adam([theirs], lr=1.0, betas=(0.9, b2), eps=0.0).step()
    # Exactly: m = 0.1, v = 1 - b2, so m̂/√v̂ = 1.
    print(f"β₂ = {b2}: optax is off by {float(mpf(step) - 1):.2g}, torch by {float(-mpf(theirs.item()) - 1):.2g}")
