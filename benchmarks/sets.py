"""The sets of layers that a step is timed on: shapes in torch's order of axes."""

import math

Shapes = list[tuple[int, ...]]


def transformer(width: int = 512, depth: int = 6, vocabulary: int = 12_000) -> Shapes:
    """A decoder's matrices, biases and norms; by default 25 M parameters in 61 layers."""
    w = width
    block: Shapes = [(w, 3 * w), (3 * w,), (w, w), (w,), (w,), (w,), (w, 4 * w), (4 * w,), (4 * w, w), (w,)]
    return [(vocabulary, w), *block * depth]


def attention_block(width: int) -> Shapes:
    """A pre-norm block with biases everywhere: of GPT-2, and of a vision transformer but for the order of axes."""
    w = width
    norm: Shapes = [(w,), (w,)]
    attention: Shapes = [(w, 3 * w), (3 * w,), (w, w), (w,)]
    mlp: Shapes = [(w, 4 * w), (4 * w,), (4 * w, w), (w,)]
    return norm + attention + norm + mlp


def gpt2_small(width: int = 768, depth: int = 12, vocabulary: int = 50_257, context: int = 1024) -> Shapes:
    """GPT-2's smallest model. Its head is the embedding of tokens, so it is no tensor of its own."""
    return [(vocabulary, width), (context, width), *attention_block(width) * depth, (width,), (width,)]


def vit_small(
    width: int = 384, depth: int = 12, patch: int = 16, patches: int = 14 * 14, classes: int = 1000
) -> Shapes:
    """ViT-S/16 for pictures of 224 × 224, with a token for the class."""
    tokens: Shapes = [(1, 1, width), (1, patches + 1, width)]
    embedding: Shapes = [(width, 3, patch, patch), (width,)]
    return [*tokens, *embedding, *attention_block(width) * depth, (width,), (width,), (classes, width), (classes,)]


def resnet50(classes: int = 1000) -> Shapes:
    """ResNet-50: four stages of bottlenecks, the first of each with a convolution beside it."""
    shapes, inner = convolution(64, 3, 7), 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            shapes += convolution(width, inner, 1) + convolution(width, width, 3) + convolution(4 * width, width, 1)
            if block == 0:
                shapes += convolution(4 * width, inner, 1)
            inner = 4 * width
    return [*shapes, (classes, inner), (classes,)]


def convolution(outer: int, inner: int, size: int) -> Shapes:
    """A convolution without bias, and the batch norm after it."""
    return [(outer, inner, size, size), (outer,), (outer,)]


KINDS: dict[str, Shapes] = {
    "64 M": [(8192, 8192)],
    "mix": transformer(),
    "small": [(64, 64)] * 200,
    "tiny": [(10,)] * 200,
    "many": [(1000,)] * 5000,
}
MODELS: dict[str, Shapes] = {"GPT-2 small": gpt2_small(), "ResNet-50": resnet50(), "ViT-S/16": vit_small()}
# Of a size between a core's cache and the one that cores share.
MIDDLE: dict[str, Shapes] = {"8 of 2^18": [(1 << 18,)] * 8, "20 of 50,000": [(50_000,)] * 20}
# What a step costs by size of one layer, and by number of layers of 1,000.
BY_SIZE: dict[str, Shapes] = {f"2^{n}": [(1 << n,)] for n in range(10, 25, 2)}
BY_COUNT: dict[str, Shapes] = {f"{n} of 1,000": [(1000,)] * n for n in (1, 10, 100, 1000)}
SCALING = BY_SIZE | BY_COUNT
SETS = KINDS | MODELS | MIDDLE | SCALING


def size(shapes: Shapes) -> int:
    """Coordinates in all."""
    return sum(math.prod(shape) for shape in shapes)
