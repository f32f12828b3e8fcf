"""One jitted, donated update of setadam_jax against optax.adam's, in one process, by turns.

    python benchmarks/jax_update.py [--seconds 20] [--set transformer]

Prints the median time of each, and the median and quartiles of the ratios of neighbouring updates.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from setadam_jax import set_adam

Shapes = dict[str, tuple[int, ...]]
WARM_UP = 3  # updates of each peer that are not counted: compilation, first touch of memory


def transformer(width: int = 512, depth: int = 6, vocabulary: int = 12_000, context: int = 256) -> Shapes:
    """A decoder's parameters; by default 25 M in 64 layers."""
    w = width
    shapes: Shapes = {"tokens": (vocabulary, w), "positions": (context, w), "norm.scale": (w,), "norm.bias": (w,)}
    block: Shapes = {"qkv": (w, 3 * w), "qkv.bias": (3 * w,), "out": (w, w), "out.bias": (w,), "norm1": (w,)}
    block |= {"norm2": (w,), "up": (w, 4 * w), "up.bias": (4 * w,), "down": (4 * w, w), "down.bias": (w,)}
    return shapes | {f"block{i}.{name}": shape for i in range(depth) for name, shape in block.items()}


SETS: dict[str, Callable[[], Shapes]] = {
    "transformer": transformer,
    "one": lambda: {"w": (8192, 4096)},
    "small": lambda: {f"w{i}": (64, 64) for i in range(200)},
}
PEERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "optax.adam": lambda: optax.adam(1e-3),
    "set_adam": lambda: set_adam(1e-3),
}


def arrays(shapes: Shapes, seed: int) -> dict[str, jax.Array]:
    """Normal float32 values."""
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape, dtype=np.float32)) for name, shape in shapes.items()}


def updater(optimizer: optax.GradientTransformation) -> Any:
    """`optimizer.update` and `optax.apply_updates` as one program that gives its buffers back."""

    def update(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(update, donate_argnums=(0, 1))


def times(shapes: Shapes, seconds: float) -> dict[str, np.ndarray]:
    """Seconds of each update of each peer; those of one index were made one after the other."""
    grads, taken = arrays(shapes, 1), {name: [] for name in PEERS}
    updaters, state = {}, {}
    for name, make in PEERS.items():
        optimizer, params = make(), arrays(shapes, 0)
        updaters[name], state[name] = updater(optimizer), (params, optimizer.init(params))
    end = math.inf
    while time.perf_counter() < end or len(taken["set_adam"]) <= WARM_UP:
        for name, update in updaters.items():
            start = time.perf_counter()
            state[name] = jax.block_until_ready(update(*state[name], grads))
            taken[name].append(time.perf_counter() - start)
        if len(taken["set_adam"]) == WARM_UP:
            end = time.perf_counter() + seconds
    return {name: np.asarray(x[WARM_UP:]) for name, x in taken.items()}


def ratio(taken: dict[str, np.ndarray]) -> np.ndarray:
    """Lower quartile, median and upper quartile of set_adam's time over optax.adam's."""
    return np.quantile(taken["set_adam"] / taken["optax.adam"], [0.25, 0.5, 0.75])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--set", choices=SETS, default="transformer")
    arguments = parser.parse_args()
    shapes = SETS[arguments.set]()
    taken = times(shapes, arguments.seconds)
    size = sum(math.prod(shape) for shape in shapes.values())
    print(f"{arguments.set}: {size / 1e6:.1f} M parameters in {len(shapes)} layers, jax {jax.__version__}")
    for name, x in taken.items():
        print(f"  {name:10s}  {np.median(x) * 1e3:8.2f} ms, median of {len(x)}")
    low, middle, high = ratio(taken)
    print(f"  ratio       {middle:8.3f}, quartiles {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
