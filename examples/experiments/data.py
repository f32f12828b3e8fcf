"""Small data sets that ship with a package or are generated, split once into train, validation and test."""

from typing import NamedTuple

import mnist1d
import numpy as np
import torch
from sklearn.datasets import load_digits


class Split(NamedTuple):
    x: torch.Tensor  # float32, (examples, features), standardized by the training part
    y: torch.Tensor  # int64 classes


class Data(NamedTuple):
    train: Split
    validation: Split  # learning rates and ε are chosen on this
    test: Split  # used once, with the settings that were chosen


def load(name: str) -> Data:
    """``digits`` (1,797 images of 8×8) or ``mnist1d`` (5,000 signals of 40 values)."""
    if name == "digits":
        digits = load_digits()
        return _split(digits.data, digits.target, test=360)
    if name == "mnist1d":
        made = mnist1d.data.make_dataset()  # of its own fixed seed
        x, y = np.concatenate([made["x"], made["x_test"]]), np.concatenate([made["y"], made["y_test"]])
        return _split(x, y, test=1000)
    raise ValueError(f"data must be 'digits' or 'mnist1d', got {name!r}")


def _split(x: np.ndarray, y: np.ndarray, test: int) -> Data:
    """As many examples for validation as for the test, the same ones in every run."""
    order = np.random.default_rng(0).permutation(len(x))
    parts = np.split(order, [len(x) - 2 * test, len(x) - test])
    mean, std = x[parts[0]].mean(), x[parts[0]].std()
    tensors = [((x[part] - mean) / std, y[part]) for part in parts]
    return Data(*(Split(torch.tensor(a, dtype=torch.float32), torch.tensor(b)) for a, b in tensors))
