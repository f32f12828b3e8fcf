"""A small classifier of handwritten digits, trained by SET-Adam and, for comparison, by Adam.

Everything is NumPy: the network's gradients are computed below, SET-Adam's step is `setadam_core.step`, and Adam is ten
lines. Both start from the same weights and use the same batches.

    python examples/train_digits.py [--epochs 60] [--lr 1e-3] [--seed 0]
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from setadam_core import Hyperparameters, init, step

Array = np.ndarray[Any, Any]  # float32, except labels and indices
Params = dict[str, Array]
Update = Callable[[Params, Params], Params]  # parameters and gradients to new parameters
WIDTH = 64
BATCH = 64


def load(seed: int) -> tuple[Array, Array, Array, Array]:
    """Pixels in [0, 1] and labels. A quarter of the 1797 images is for the test."""
    pixels, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        (pixels / 16).astype(np.float32), labels, test_size=0.25, random_state=seed, stratify=labels
    )
    return x_train, y_train, x_test, y_test


def make_params(rng: np.random.Generator) -> Params:
    """64 pixels, a hidden layer of WIDTH rectified units, 10 logits; He's initial weights."""
    shapes = {"w1": (64, WIDTH), "b1": (WIDTH,), "w2": (WIDTH, 10), "b2": (10,)}
    return {
        name: (rng.normal(size=shape) * np.sqrt(2 / shape[0]) * (len(shape) == 2)).astype(np.float32)
        for name, shape in shapes.items()
    }


def logits(params: Params, x: Array) -> tuple[Array, Array]:
    """The logits, and the hidden layer that they come from."""
    hidden = np.maximum(x @ params["w1"] + params["b1"], 0)
    return hidden @ params["w2"] + params["b2"], hidden


def gradients(params: Params, x: Array, labels: Array) -> Params:
    """Of the mean cross-entropy over the batch, by the chain rule."""
    z, hidden = logits(params, x)
    likelihood = np.exp(z - np.max(z, axis=1, keepdims=True))
    dz = likelihood / np.sum(likelihood, axis=1, keepdims=True)
    dz[np.arange(len(x)), labels] -= 1
    dz /= len(x)
    dhidden = (dz @ params["w2"].T) * (hidden > 0)
    return {"w1": x.T @ dhidden, "b1": dhidden.sum(0), "w2": hidden.T @ dz, "b2": dz.sum(0)}


def set_adam(params: Params, lr: float) -> Update:
    """SET-Adam as in the paper: each array is a layer."""
    hp = Hyperparameters(lr=lr)
    states = {name: init(param) for name, param in params.items()}

    def update(params: Params, grads: Params) -> Params:
        new = {}
        for name, param in params.items():
            new[name], states[name] = step(param, grads[name], states[name], hp)
        return new

    return update


def adam(params: Params, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> Update:
    """Adam, from its paper."""
    m = {name: np.zeros_like(param) for name, param in params.items()}
    v = {name: np.zeros_like(param) for name, param in params.items()}
    t = 0

    def update(params: Params, grads: Params) -> Params:
        nonlocal t
        t, new = t + 1, {}
        for name, g in grads.items():
            m[name] = beta1 * m[name] + (1 - beta1) * g
            v[name] = beta2 * v[name] + (1 - beta2) * g * g
            m_hat, v_hat = m[name] / (1 - beta1**t), v[name] / (1 - beta2**t)
            new[name] = params[name] - lr * m_hat / (np.sqrt(v_hat) + eps)
        return new

    return update


def batches(rng: np.random.Generator, count: int, epochs: int) -> Iterator[Array]:
    """The indices of each batch, every image once an epoch in a new order."""
    for _ in range(epochs):
        order = rng.permutation(count)
        yield from (order[i : i + BATCH] for i in range(0, count, BATCH))


def train(
    make_update: Callable[[Params, float], Update], args: argparse.Namespace, advance: Callable[[], None]
) -> float:
    """Train from the seed's weights on the seed's batches; return the accuracy on the test images."""
    rng = np.random.default_rng(args.seed)
    x_train, y_train, x_test, y_test = load(args.seed)
    params = make_params(rng)
    update = make_update(params, args.lr)
    for batch in batches(rng, len(x_train), args.epochs):
        params = update(params, gradients(params, x_train[batch], y_train[batch]))
        advance()
    return float(np.mean(np.argmax(logits(params, x_test)[0], axis=1) == y_test))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with both and print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    console = Console()
    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    steps = args.epochs * -(-len(load(args.seed)[0]) // BATCH)
    accuracy = {}
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        for name, make_update in (("SET-Adam", set_adam), ("Adam", adam)):
            task = progress.add_task(name, total=steps)
            accuracy[name] = train(make_update, args, partial(progress.advance, task))
    for name, share in accuracy.items():
        console.print(f"{name:9} test accuracy {share:.1%}", highlight=False)
    return accuracy


if __name__ == "__main__":
    main()
