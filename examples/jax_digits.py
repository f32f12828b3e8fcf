"""Train an Equinox network on scikit-learn's handwritten digits with SET-Adam, in seconds on a CPU.

    pip install jax optax equinox scikit-learn rich
    python examples/jax_digits.py [--epochs 20] [--seed 0]

SET-Adam is in three places: `set_adam`, `optimizer.update` and `layer_statistics`.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from setadam_jax import layer_statistics, set_adam

BATCH = 64


def mean_loss(model, images, labels):
    """Cross-entropy over a batch."""
    logits = jax.vmap(model)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@eqx.filter_jit
def accuracy(model, images, labels):
    """Share of images whose most likely digit is the right one."""
    return (jax.vmap(model)(images).argmax(axis=-1) == labels).mean()


def train(epochs: int, seed: int, console: Console) -> float:
    """Train, print each layer's statistics, and return the accuracy on held-out digits."""
    digits = load_digits()
    split = train_test_split((digits.data / 16).astype(np.float32), digits.target, test_size=0.25, random_state=seed)
    train_x, test_x, train_y, test_y = map(jnp.asarray, split)

    model = eqx.nn.MLP(64, 10, width_size=128, depth=2, key=jax.random.key(seed))
    steps = epochs * (len(train_x) // BATCH)
    optimizer = set_adam(optax.cosine_decay_schedule(1e-3, steps), weight_decay=1e-2)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit(donate="all")
    def step(model, state, images, labels):
        loss, grads = eqx.filter_value_and_grad(mean_loss)(model, images, labels)
        updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    rng = np.random.default_rng(seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=steps)
        for epoch in range(epochs):
            order = rng.permutation(len(train_x))[: steps // epochs * BATCH]
            for rows in order.reshape(-1, BATCH):
                model, state, loss = step(model, state, train_x[rows], train_y[rows])
                progress.advance(task)
            progress.update(task, description=f"epoch {epoch + 1}: loss {float(loss):.3f}")

    table = Table("layer", "γ", "min w", "min stepsize", "max stepsize", title="the effect of S, E and T")
    weights = eqx.filter(model, eqx.is_inexact_array)
    statistics = jax.jit(layer_statistics)(state, weights)
    is_layer = {"is_leaf": lambda x: hasattr(x, "gamma")}
    for path, layer in jax.tree_util.tree_leaves_with_path(statistics, **is_layer):
        numbers = (layer.gamma, layer.w_min, layer.stepsize_min, layer.stepsize_max)
        table.add_row(jax.tree_util.keystr(path), *(f"{float(x):.3g}" for x in numbers))
    console.print(table)
    return float(accuracy(model, test_x, test_y))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out = Console()
    out.print(f"held-out accuracy: {train(arguments.epochs, arguments.seed, out):.1%}")
