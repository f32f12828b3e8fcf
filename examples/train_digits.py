"""A small classifier of handwritten digits, trained by SET-Adam and, for comparison, by Adam.

Everything is NumPy: the network's gradients are computed below, SET-Adam's step is `setadam_core.step`, and Adam is ten
lines. All runs of a seed start from the same weights and use the same batches.

    python examples/train_digits.py [--epochs 60] [--lr 1e-3] [--seeds 0 1 2]

At the same η SET-Adam's steps are about twice as large as Adam's, since τ = ½, and here larger steps win by
themselves. So each optimizer is run at η and at η/2. With --seeds 0 1 2 3 4, SET-Adam has 97.8 % at η and 97.0 % at
η/2, Adam 97.2 % and 96.5 %: SET-Adam at η/2 is like Adam at η. With --lr 4e-3 as well, all four have 97.7 or 97.8 %:
on this task a tuned SET-Adam is not better than a tuned Adam.
"""

import argparse
import itertools
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
    make_update: Callable[[Params, float], Update], lr: float, epochs: int, seed: int, advance: Callable[[], None]
) -> float:
    """Train from the seed's weights on the seed's batches; return the accuracy on the test images."""
    rng = np.random.default_rng(seed)
    x_train, y_train, x_test, y_test = load(seed)
    params = make_params(rng)
    update = make_update(params, lr)
    for batch in batches(rng, len(x_train), epochs):
        params = update(params, gradients(params, x_train[batch], y_train[batch]))
        advance()
    return float(np.mean(np.argmax(logits(params, x_test)[0], axis=1) == y_test))


def main(argv: list[str] | None = None) -> dict[str, list[float]]:
    """Train with both, at η and η/2, and print and return the accuracies of the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args(argv)

    console = Console()
    columns = (TextColumn("{task.description:14}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    steps = args.epochs * -(-len(load(0)[0]) // BATCH) * len(args.seeds)
    accuracies = {}
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        for (name, make_update), (rate, lr) in itertools.product(
            (("SET-Adam", set_adam), ("Adam", adam)), (("η", args.lr), ("η/2", args.lr / 2))
        ):
            advance = partial(progress.advance, progress.add_task(f"{name}, {rate}", total=steps))
            accuracies[f"{name}, {rate}"] = [train(make_update, lr, args.epochs, seed, advance) for seed in args.seeds]
    for name, shares in accuracies.items():
        mean, each = np.mean(shares), " ".join(f"{share:.1%}" for share in shares)
        console.print(f"{name:14} test accuracy {mean:.1%}, by seed {each}", highlight=False)
    return accuracies


if __name__ == "__main__":
    main()
