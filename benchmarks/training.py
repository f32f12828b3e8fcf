"""A whole training step of a small transformer, with torch's fused Adam and with SET-Adam."""

from typing import Any

import torch
from torch import nn

from benchmarks.peers import Step
from benchmarks.timing import in_turns
from setadam_torch import SETAdam

WIDTH, CONTEXT, BATCH, VOCABULARY = 256, 64, 8, 4096
DTYPES = "float32", "bfloat16"
PEER = "torch Adam fused"


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 4, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Any) -> Any:
        return self.head(self.blocks(self.tokens(x)))


def made(dtype: str) -> tuple[nn.Module, Any]:
    """A model with parameters of a dtype, and a function that computes its loss."""
    torch.manual_seed(0)
    model, text = Transformer().to(getattr(torch, dtype)), torch.randint(VOCABULARY, (BATCH, CONTEXT))
    return model, lambda: nn.functional.cross_entropy(model(text).flatten(0, 1), text.flatten())


def usual(dtype: str, optimizer: Any, **options: Any) -> Step:
    """Forward, backward, step."""
    model, loss = made(dtype)
    update = optimizer(model.parameters(), **options)

    def step() -> None:
        update.zero_grad()
        loss().backward()
        update.step()

    return step


def in_backward(dtype: str, optimizer: Any, **options: Any) -> Step:
    """An optimizer for each parameter, whose step runs in the backward pass as soon as the gradient is there."""
    model, loss = made(dtype)
    update = {p: optimizer([p], **options) for p in model.parameters()}

    def hook(p: Any) -> None:
        update[p].step()
        update[p].zero_grad()

    for p in update:
        p.register_post_accumulate_grad_hook(hook)
    return lambda: loss().backward()


def compare(seconds: float) -> list[dict[str, Any]]:
    """Each against fused Adam's step, and that against itself for the noise."""
    found = []
    for dtype in DTYPES:
        steps = {
            "SETAdam": usual(dtype, SETAdam),
            "SETAdam fused=False": usual(dtype, SETAdam, fused=False),
            PEER: usual(dtype, torch.optim.Adam, fused=True),
            "SETAdam in backward": in_backward(dtype, SETAdam),
            f"{PEER} in backward": in_backward(dtype, torch.optim.Adam, fused=True),
        }
        peer = usual(dtype, torch.optim.Adam, fused=True)
        about = {"set": "training step", "dtype": dtype, "threads": torch.get_num_threads(), "against": PEER}
        found += [{**about, "path": name, **in_turns(step, peer, seconds).as_dict()} for name, step in steps.items()]
    return found
