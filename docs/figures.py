"""Draw every figure of the documentation, from short training runs on scikit-learn's digits: make figures

`setadam_core.show.plots` draws them, into docs/figures/. On one machine, the same code gives the same files, byte for
byte. Another machine, or another order of sums in the backend, rounds differently, and training amplifies the
difference: curves then change a little.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import rc_context
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from setadam_core import Hyperparameters, State, init, step
from setadam_core.show import plots
from setadam_torch import SETAdam

FOLDER = Path(__file__).parent / "figures"
BATCH = 64
STEPS = 400
MOMENTS = (40, 200)
EVERY = 10  # steps between two records of the statistics
RECORDED = (1, 2, 5, 10, 20, 30, 40, 50, 60, 80, 100, 150, 200, 300, 400)  # steps that docs/play.md shows

# Adam is SET-Adam with its three operations off; each ablation leaves one out.
SETTINGS: dict[str, dict[str, Any]] = {
    "Adam": {"cos_power": 0, "eps_inside_sqrt": False, "tau": 0},
    "without S": {"cos_power": 0},
    "without E": {"eps_inside_sqrt": False},
    "without T": {"tau": 0},
    "SET-Adam": {},
}


class Moment(NamedTuple):
    """One parameter in the middle of training, before its step: what `setadam_core.trace` takes."""

    param: Any
    grad: Any
    state: State


class Run(NamedTuple):
    history: dict[int, dict[str, dict[str, float]]]  # step → layer_statistics
    sizes: dict[str, int]
    moments: dict[int, Moment]  # the weight of the third convolution at each of MOMENTS
    seconds: dict[int, Any]  # its second moment v after each of RECORDED


@cache
def digits() -> tuple[Any, Any]:
    """1797 images of 8 × 8 pixels in [0, 1], and their labels."""
    pixels, labels = load_digits(return_X_y=True)
    return pixels / 16, labels


@cache
def run(setting: str) -> Run:
    """Train a small convolutional network; the same weights and batches for every setting."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.GELU()),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 16, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 10)),
    )
    names = _readable(model)
    pixels, labels = digits()
    x, y = torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels)
    named = ((names[n], p) for n, p in model.named_parameters())
    optimizer = SETAdam(named, fused=False, **SETTINGS[setting])  # one order of sums, with Numba installed or not
    watched = dict(zip(names.values(), model.parameters(), strict=True))["conv3.weight"]
    history, moments, seconds = {}, {}, {}
    for t, batch in zip(range(1, STEPS + 1), _batches(len(x)), strict=False):
        optimizer.zero_grad()
        cross_entropy(model(x[batch]), y[batch]).backward()
        if t in MOMENTS:
            before = optimizer.state[watched]
            state = State(before["exp_avg"].clone(), before["exp_avg_sq"].clone(), int(before["step"]))
            moments[t] = Moment(watched.detach().clone(), watched.grad.clone(), state)
        optimizer.step()
        if t in RECORDED:
            seconds[t] = optimizer.state[watched]["exp_avg_sq"].clone()
        if t == 1 or t % EVERY == 0:
            history[t] = optimizer.layer_statistics()
    sizes = {names[n]: p.numel() for n, p in model.named_parameters()}
    return Run(history, sizes, moments, seconds)


def five_biases() -> Moment:
    """The layer of `setadam_core.show.demo`: the biases of the first of four hidden layers of five sigmoid units.

    Gradients by the chain rule, in float64; ten steps of SET-Adam, of which the tenth is returned. NumPy's
    RandomState is the generator whose sequence is promised to stay.
    """
    rng, depth = np.random.RandomState(7), 4
    sizes = [64, *[5] * depth, 10]
    weights = [rng.normal(size=shape) / math.sqrt(shape[0]) for shape in pairwise(sizes)]
    params = [*weights, *(np.zeros(n) for n in sizes[1:])]
    states = [init(p) for p in params]
    pixels, labels = digits()
    for t in range(10):
        rows = slice(BATCH * t, BATCH * (t + 1))
        grads = _sigmoid_gradients(params, pixels[rows], labels[rows])
        if t == 9:
            return Moment(params[depth + 1], grads[depth + 1], states[depth + 1])
        for i, grad in enumerate(grads):
            params[i], states[i] = step(params[i], grad, states[i], Hyperparameters())
    raise AssertionError("ten steps have been taken")


def _sigmoid_gradients(params: list[Any], x: Any, labels: Any) -> list[Any]:
    """Of the mean cross-entropy, for weights and then biases of a network of sigmoid units."""
    depth = len(params) // 2
    layers = [x]
    for weight, bias in zip(params[: depth - 1], params[depth:-1], strict=True):
        layers.append(1 / (1 + np.exp(-(layers[-1] @ weight + bias))))
    logits = layers[-1] @ params[depth - 1] + params[-1]
    d = np.exp(logits - logits.max(axis=1, keepdims=True))
    d /= d.sum(axis=1, keepdims=True)
    d[np.arange(len(x)), labels] -= 1
    d /= len(x)
    grads: list[Any] = [None] * len(params)
    for i in reversed(range(depth)):
        grads[i], grads[depth + i] = layers[i].T @ d, d.sum(axis=0)
        d = (d @ params[i].T) * layers[i] * (1 - layers[i])
    return grads


def _readable(model: nn.Sequential) -> dict[str, str]:
    """conv1.weight, …, linear2.bias for the parameters' names, which count all modules."""
    counts: dict[str, int] = {}
    names = {}
    for index, module in model.named_children():
        kind = {nn.Conv2d: "conv", nn.Linear: "linear"}.get(type(module))
        if kind:
            counts[kind] = counts.get(kind, 0) + 1
            names |= {f"{index}.{part}": f"{kind}{counts[kind]}.{part}" for part in ("weight", "bias")}
    return names


def _batches(count: int) -> Iterator[Any]:
    """Every image once an epoch, in an order that the seed decides, without end."""
    generator = torch.Generator().manual_seed(1)
    while True:
        yield from torch.randperm(count, generator=generator)[: count // BATCH * BATCH].split(BATCH)


def _weights(history: dict[int, Any]) -> dict[int, Any]:
    """The layers' weights alone, without their biases: the layers of the paper's figures."""
    return {t: {n: row for n, row in rows.items() if n.endswith("weight")} for t, rows in history.items()}


def operations() -> Any:
    return plots.operations(*run("SET-Adam").moments[MOMENTS[0]], Hyperparameters())


def operations_later() -> Any:
    return plots.operations(*run("SET-Adam").moments[MOMENTS[1]], Hyperparameters())


def stepsizes() -> Any:
    return plots.stepsizes({name: _weights(run(name).history) for name in SETTINGS})


def angles() -> Any:
    return plots.angles(_weights(run("SET-Adam").history))


def gamma_by_size() -> Any:
    statistics, sizes, *_ = run("SET-Adam")
    return plots.gamma_by_size(statistics[STEPS], sizes)


FIGURES: dict[str, Callable[[], Any]] = {
    f.__name__: f for f in (operations, operations_later, stepsizes, angles, gamma_by_size)
}


def path_of(name: str, folder: Path = FOLDER) -> Path:
    return folder / f"{name.replace('_', '-')}.svg"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder, %(default)s")
    out = parser.parse_args(argv).out
    out.mkdir(exist_ok=True)
    torch.set_num_threads(1)  # so that sums have one order
    with rc_context({"svg.hashsalt": "setadam", "font.size": 9, "figure.facecolor": "white"}):
        for name, make in FIGURES.items():
            path = path_of(name, out)
            make().savefig(path, metadata={"Date": None, "Creator": None})
            print(path)


if __name__ == "__main__":
    main()
