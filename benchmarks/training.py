"""A whole training step of a small transformer, with torch's fused Adam and with SET-Adam."""

from typing import Any

import torch
from torch import nn

from benchmarks.peers import Step
from benchmarks.timing import Timing, in_turns
from setadam_torch import SETAdam

WIDTH, CONTEXT, BATCH, VOCABULARY = 256, 64, 8, 4096


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 4, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Any) -> Any:
        return self.head(self.blocks(self.tokens(x)))


def _step(optimizer: Any, **options: Any) -> Step:
    torch.manual_seed(0)
    model, text = Transformer(), torch.randint(VOCABULARY, (BATCH, CONTEXT))
    update = optimizer(model.parameters(), **options)

    def step() -> None:
        update.zero_grad()
        nn.functional.cross_entropy(model(text).flatten(0, 1), text.flatten()).backward()
        update.step()

    return step


def compare(seconds: float) -> dict[str, Timing]:
    """SETAdam's training step against fused Adam's, and fused Adam's against itself for the noise."""
    adam = _step(torch.optim.Adam, fused=True)
    return {
        "SETAdam": in_turns(_step(SETAdam), adam, seconds),
        "SETAdam fused=False": in_turns(_step(SETAdam, fused=False), adam, seconds),
        "torch Adam fused": in_turns(_step(torch.optim.Adam, fused=True), adam, seconds),
    }
