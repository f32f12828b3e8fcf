"""Three small classifiers. Each takes (batch, features) and gives (batch, 10)."""

import torch
from torch import nn


def build(name: str, features: int, classes: int = 10) -> nn.Module:
    """``mlp``, ``conv`` or ``transformer``."""
    if name == "mlp":
        return nn.Sequential(nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, classes))
    if name == "conv":
        layers: list[nn.Module] = [nn.Unflatten(1, (1, features))]
        for channels in (1, 25, 25):
            layers += [nn.Conv1d(channels, 25, 3, stride=2, padding=1), nn.BatchNorm1d(25), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(25 * -(-features // 8), classes))
    if name == "transformer":
        return Transformer(features, classes)
    raise ValueError(f"model must be 'mlp', 'conv' or 'transformer', got {name!r}")


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
