"""The paper's models: VGG11 and ResNet-34 for 32×32 images, and an encoder-decoder transformer."""

import math

import torch
from paper_data import PAD
from torch import nn


def vgg11(classes: int) -> nn.Module:
    """Eight convolutions with batch normalization, five halvings, and one linear layer."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"):
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, classes))


class Residual(nn.Module):
    """Two convolutions beside the identity, or beside a 1×1 convolution where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        same = stride == 1 and channels == width
        projection = (nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.beside = nn.Identity() if same else nn.Sequential(*projection)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.inside(x) + self.beside(x))


def resnet34(classes: int) -> nn.Module:
    """Stages of 3, 4, 6 and 3 residual blocks; for small images the first convolution keeps their size."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    channels = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for i in range(count):
            layers.append(Residual(channels, 64 << stage, 2 if stage and i == 0 else 1))
            channels = 64 << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class Translator(nn.Module):
    """Source and target word numbers in, scores of the next target word at each place out."""

    def __init__(self, source_words: int, target_words: int, width: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.source = nn.Embedding(source_words, width, padding_idx=PAD)
        self.target = nn.Embedding(target_words, width, padding_idx=PAD)
        options = {"dim_feedforward": 2 * width, "dropout": 0.1, "batch_first": True}
        reads, writes = nn.TransformerEncoderLayer(width, 8, **options), nn.TransformerDecoderLayer(width, 8, **options)
        self.encoder = nn.TransformerEncoder(reads, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(writes, layers, nn.LayerNorm(width))
        self.head = nn.Linear(width, target_words)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool, device=target.device).triu(1)
        memory = self.encoder(self._embed(self.source, source), src_key_padding_mask=source == PAD)
        hidden = self.decoder(
            self._embed(self.target, target),
            memory,
            tgt_mask=future,
            tgt_key_padding_mask=target == PAD,
            memory_key_padding_mask=source == PAD,
        )
        return self.head(hidden)

    @staticmethod
    def _embed(words: nn.Embedding, numbers: torch.Tensor) -> torch.Tensor:
        """Word vectors plus sines of their places."""
        width = words.embedding_dim
        place = torch.arange(numbers.shape[1], device=numbers.device)[:, None]
        rate = torch.exp(torch.arange(0, width, 2, device=numbers.device) * (-math.log(10000.0) / width))
        waves = torch.cat([torch.sin(place * rate), torch.cos(place * rate)], dim=1)
        return words(numbers) * math.sqrt(width) + waves
