"""A complete adapter for a class that does not know the kit: --backend textbook_torch:TextbookTorch."""

import torch
from textbook_torch_optimizer import TextbookSETAdam

from setadam_conformance.protocol import Capabilities, LayerState


class TextbookTorch:
    name = "textbook_torch"
    framework = "textbook"
    capabilities = Capabilities(dtypes=("float64", "float32"), options=frozenset({"empty", "many"}), in_place=True)

    def __init__(self, device="cpu"):
        if device != "cpu":
            raise RuntimeError(f"{self.name} has no device {device!r}")

    def from_numpy(self, x):
        return torch.from_numpy(x.copy(order="K"))

    def to_numpy(self, x):
        return x.detach().numpy()

    def step(self, params, grads, states, hp, layer_axes):
        optimizer = TextbookSETAdam(params, lr=hp["lr"], betas=(hp["beta1"], hp["beta2"]), eps=hp["eps"], tau=hp["tau"])
        for param, grad, (m, v, t) in zip(params, grads, states, strict=True):
            param.grad = grad
            optimizer.state[param] = {"m": m, "v": v, "t": t}
        optimizer.step()
        return params, [LayerState(*(optimizer.state[p][key] for key in ("m", "v", "t"))) for p in params]
