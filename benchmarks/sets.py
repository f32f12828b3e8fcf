"""The sets of layers that a step is timed on."""

import math

Shapes = list[tuple[int, ...]]


def transformer(width: int = 512, depth: int = 6, vocabulary: int = 12_000) -> Shapes:
    """A decoder's matrices, biases and norms; by default 25 M parameters in 61 layers."""
    w = width
    block: Shapes = [(w, 3 * w), (3 * w,), (w, w), (w,), (w,), (w,), (w, 4 * w), (4 * w,), (4 * w, w), (w,)]
    return [(vocabulary, w), *block * depth]


SETS: dict[str, Shapes] = {
    "64 M": [(8192, 8192)],
    "mix": transformer(),
    "small": [(64, 64)] * 200,
    "tiny": [(10,)] * 200,
    "many": [(1000,)] * 5000,
}
# What a step costs by size of one layer, and by number of layers of 1,000.
BY_SIZE: dict[str, Shapes] = {f"d={1 << n}": [(1 << n,)] for n in range(10, 25, 2)}
BY_COUNT: dict[str, Shapes] = {f"layers={n}": [(1000,)] * n for n in (1, 10, 100, 1000)}


def size(shapes: Shapes) -> int:
    """Coordinates in all."""
    return sum(math.prod(shape) for shape in shapes)
