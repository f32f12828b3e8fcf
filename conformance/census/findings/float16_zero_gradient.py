"""ε = 1e-8 is 0 in float16, so a float16 gradient of zero gives 0/0 = NaN.

Where the arithmetic has the parameter's own format, the default ε underflows. One coordinate that has had no gradient
yet, as in an embedding, is NaN after the first step. torch's fused path computes in float32, and is not concerned.
"""

import jax.numpy as jnp
import optax
import torch

for fused in (False, True):
    param = torch.nn.Parameter(torch.ones(1, dtype=torch.float16))
    param.grad = torch.zeros_like(param)
    torch.optim.Adam([param], fused=fused, foreach=False).step()
    print(f"torch.optim.Adam, fused={fused}: {param.item()}")
zero = jnp.zeros(1, jnp.float16)
chain = optax.adam(1e-3)
print("optax.adam:", chain.update(zero, chain.init(zero))[0])
