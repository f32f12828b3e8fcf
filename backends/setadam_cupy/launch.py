"""Launches the kernels of kernels.cu, with tables of up to 64 layers, and scratch memory that is allocated once.

Tables and coefficients are launch arguments, passed by value. So the host never waits for a copy to the device, and
has no buffer that it must not overwrite yet.
"""

from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from setadam_core import Hyperparameters
from setadam_core.layers import Array
from setadam_core.spec import bias_correction

THREADS = 256
LAYERS = 64
# The most blocks that share a layer, and the coordinates per block: a thread has at least four.
MAX_BLOCKS = 1024
PER_BLOCK = 4 * THREADS

# CuPy adds the architecture. Which products and sums are one operation would depend on what else a thread computes.
OPTIONS = ("--std=c++17", "--fmad=false", f"-DTHREADS={THREADS}")

# The structs of kernels.cu: 8-byte members first, so that C adds no padding.
TABLE = np.dtype(
    [(name, np.uint64, LAYERS) for name in ("theta", "grad", "m", "v")]
    + [("size", np.int64, LAYERS)]
    + [(name, np.int32, LAYERS) for name in ("first", "blocks", "slot")]
    + [("entries", np.int32), ("unused", np.int32)]
)
STEP = np.dtype(
    [
        (name, np.float64)
        for name in (
            "beta1", "rest1", "beta2", "rest2", "bias2", "rate", "eps", "tau", "power", "decay", "shrink",
        )
    ]
    + [("maximize", np.int32), ("eps_inside_sqrt", np.int32)]
)  # fmt: skip


class Item(NamedTuple):
    """The layers of one parameter, one after the other in memory."""

    arrays: list[Array]  # theta, grad, m, v, contiguous
    layers: int


class Scratch:
    """Memory of one device that all steps reuse. If it is large enough, a step allocates nothing.

    Launches on one stream use it in turn. If you change streams between steps, you have to synchronize them, as for the
    parameters themselves.
    """

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._memory: dict[str, Array] = {}

    def get(self, name: str, size: int, dtype: Any) -> Array:
        """At least ``size`` elements, which are zero when first allocated."""
        key = f"{name}:{np.dtype(dtype)}"
        if key not in self._memory or self._memory[key].size < size:
            self._memory[key] = self._xp.zeros(size, dtype)
        return self._memory[key]


@lru_cache
def module(xp: Any, device: int) -> Any:
    """The kernels, compiled for a device, which is the current one.

    `cupy.RawModule` is not used: it adds -ftz=true to all options, which flushes float32 subnormals.
    """
    source = files(__package__).joinpath("kernels.cu").read_text(encoding="utf-8")
    image, _ = xp.cuda.compiler.compile_using_nvrtc(source, OPTIONS)
    loaded = xp.cuda.function.Module()
    loaded.load(image)
    return loaded


def step_layers(
    xp: Any, device: int, scratch: Scratch, items: list[Item], dtype: str, t: int, hp: Hyperparameters
) -> None:
    """One step of layers of one dtype on one device, which is the current one, on its current stream.

    dtype: the real dtype of parameters and gradients. t counts this step. Nothing waits for the device.
    """
    kernels = module(xp, device)
    moments, descend = (kernels.get_function(f"{name}_{dtype}") for name in ("moments", "descend"))
    step = coefficients(t, hp)
    for table, blocks, slots in tables(items):
        parts = scratch.get("parts", 4 * blocks, np.float64)
        results = scratch.get("results", 2 * slots, np.float64)
        arrived = scratch.get("arrived", slots, np.uint32)
        moments((blocks,), (THREADS,), (table, step, parts, results, arrived))
        descend((blocks,), (THREADS,), (table, step, results))


def coefficients(t: int, hp: Hyperparameters) -> Array:
    """The struct Step, computed in double."""
    step = np.zeros(1, STEP)
    step["beta1"], step["rest1"], step["beta2"], step["rest2"] = hp.beta1, 1 - hp.beta1, hp.beta2, 1 - hp.beta2
    # A layer is needed for arrays alone, and these are numbers.
    bias1, bias2 = (bias_correction(beta, t, None) for beta in (hp.beta1, hp.beta2))  # type: ignore[arg-type]
    step["bias2"], step["rate"] = bias2, hp.lr / bias1
    step["eps"], step["tau"], step["power"] = hp.eps, hp.tau, hp.cos_power
    step["decay"] = 0.0 if hp.decoupled_weight_decay else hp.weight_decay
    step["shrink"] = 1 - hp.lr * hp.weight_decay if hp.decoupled_weight_decay else 1.0
    step["maximize"], step["eps_inside_sqrt"] = hp.maximize, hp.eps_inside_sqrt
    return step


def tables(items: list[Item]) -> Iterator[tuple[Array, int, int]]:
    """The struct Table of each launch, with the number of blocks and the number of layers."""
    for start in range(0, len(items), LAYERS):
        table, blocks, slots = np.zeros(1, TABLE), 0, 0
        row = table[0]
        for e, (arrays, count) in enumerate(items[start : start + LAYERS]):
            for name, x in zip(("theta", "grad", "m", "v"), arrays, strict=True):
                row[name][e] = x.data.ptr
            size = arrays[0].size // count
            shared = min(MAX_BLOCKS, -(-size // PER_BLOCK))
            row["size"][e], row["first"][e], row["blocks"][e], row["slot"][e] = size, blocks, shared, slots
            blocks, slots = blocks + count * shared, slots + count
        row["entries"] = min(LAYERS, len(items) - start)
        yield table, blocks, slots
