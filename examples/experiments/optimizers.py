"""The optimizers of the studies, by name and settings."""

from collections.abc import Iterable
from typing import Any

import torch
from pytorch_optimizer import AdaBelief
from torch import nn

from setadam_torch import SETAdam

# What switches each operation of SET-Adam off. ε leaves the root for Adam's place at the size of its floor,
# √ε, so that the placement changes and not the magnitude.
OFF: dict[str, dict[str, Any]] = {
    "S": {"cos_power": 0.0},
    "E": {"eps_inside_sqrt": False, "eps": 1e-4},
    "T": {"tau": 0.0},
}


def make(name: str, params: Iterable[tuple[str, nn.Parameter]], **settings: Any) -> torch.optim.Optimizer:
    """An optimizer of named parameters. Settings have the optimizer's own names; AdaBelief's ε is Adam's."""
    if name == "SET-Adam":
        return SETAdam(params, **settings)
    plain = [param for _, param in params]
    makers: dict[str, Any] = {
        "Adam": torch.optim.Adam,
        "AdamW": torch.optim.AdamW,
        "AdaBelief": AdaBelief,
        "SGD": torch.optim.SGD,
    }
    if name not in makers:
        raise ValueError(f"optimizer must be one of SET-Adam, {', '.join(makers)}, got {name!r}")
    if name == "AdaBelief":
        settings = {"rectify": False, **settings}
    return makers[name](plain, **settings)
