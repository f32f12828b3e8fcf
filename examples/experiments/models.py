"""Five small models. Each takes (batch, features, …) and gives (batch, classes, …)."""

import itertools

import torch
from torch import nn


def build(name: str, features: int, classes: int = 10) -> nn.Module:
    """``mlp``, ``conv``, ``transformer``, ``conv2d`` (features: channels) or ``language`` (features: places)."""
    if name == "mlp":
        return nn.Sequential(nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, classes))
    if name == "conv":
        layers: list[nn.Module] = [nn.Unflatten(1, (1, features))]
        for channels in (1, 25, 25):
            layers += [nn.Conv1d(channels, 25, 3, stride=2, padding=1), nn.BatchNorm1d(25), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(25 * -(-features // 8), classes))
    if name == "transformer":
        return Transformer(features, classes)
    if name == "conv2d":
        widths = (features, 16, 32, 32)
        layers = []
        for before, width in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4 * 4, classes))
    if name == "language":
        return Language(features, classes)
    raise ValueError(f"model must be 'mlp', 'conv', 'transformer', 'conv2d' or 'language', got {name!r}")


class Transformer(nn.Module):
    """An encoder over patches of four values, with learned positions, averaged at the end."""

    patch, width = 4, 32

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        if features % self.patch:
            raise ValueError(f"features must be a multiple of {self.patch}, got {features}")
        self.embed = nn.Linear(self.patch, self.width)
        self.place = nn.Parameter(torch.randn(features // self.patch, self.width) / self.width**0.5)
        block = nn.TransformerEncoderLayer(
            self.width, 4, 2 * self.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(self.width), nn.Linear(self.width, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = x.unflatten(1, (-1, self.patch))
        return self.head(self.blocks(self.embed(patches) + self.place).mean(dim=1))


class Language(nn.Module):
    """Characters in, scores of the next character at each place out: (batch, places) to (batch, classes, places)."""

    width = 48

    def __init__(self, places: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, self.width)
        self.place = nn.Parameter(torch.randn(places, self.width) / self.width**0.5)
        block = nn.TransformerEncoderLayer(
            self.width, 4, 2 * self.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(self.width), nn.Linear(self.width, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        future = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        hidden = self.blocks(self.embed(x) + self.place, mask=future, is_causal=True)
        return self.head(hidden).transpose(1, 2)
