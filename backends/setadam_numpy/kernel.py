"""The CPU kernel: all layers of a step in one call, in two passes over memory, on several threads.

Extra `fast` (Numba). `step` is a whole step of `Layers`; `moments` and `descend` are its two passes, for layers
of which this process has a part. Results do not depend on the number of threads, bit for bit. The
algorithm is `setadam_core.spec.trace`; the loops, in `_compiled`, are written for memory traffic: 9 words
a coordinate, and 7 where a layer's moments stay in the cache between the passes.

The kernel is given addresses, and checks nothing: callers have checked their arrays. These are C-contiguous,
aligned and writable (g may be read-only); θ and g of one dtype, m and v of its compute dtype, all of one size.
Complex arrays are passed as real views, bfloat16 and float16 as views of any 16-bit dtype, with ``dtype`` saying
which they are.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from setadam_core import Hyperparameters
from setadam_core.extras import pip_install
from setadam_core.layers import COMPUTE_DTYPE, check_layer_axes
from setadam_core.parts import Parts
from setadam_numpy import _team, _threads

Array = Any  # of whatever dtype holds the bits
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# A number of the type by which `_compiled` tells the dtypes of θ and g apart.
_STORED: dict[str, Any] = {
    "float64": np.float64(0),
    "float32": np.float32(0),
    "bfloat16": np.uint16(0),
    "float16": np.int16(0),
}
_WHOLE = 1 << 17  # coordinates; larger layers are always shared between threads
# From so many on, a step is shared with OpenMP's threads, whether awake or not: one core needs 15 to 30 µs for them.
_WORTH_SHARING = 1 << 15


@lru_cache
def why_not(dtype: str = "float32") -> str | None:
    """What is missing for parameters of a dtype; None if the kernel can run. Imports Numba, and compiles nothing."""
    if dtype not in _STORED:
        return f"dtype must be one of {', '.join(_STORED)}, got {dtype}"
    try:
        from setadam_numpy import _compiled
    except ImportError as error:  # absent, or at odds with the NumPy that is there
        return f"the compiled CPU kernel needs Numba: {pip_install('fast')} ({error})"
    if dtype == "float16" and not _compiled.HAS_FLOAT16:
        return "this CPU has no instructions for float16"
    return None


class Threads(NamedTuple):
    """Who takes a step."""

    number: int
    openmp: int = 0  # the address of GOMP_parallel, where they are OpenMP's; 0 for a team of the kernel's own


def _granted(threads: Threads | int | None) -> Threads:
    return threads if isinstance(threads, Threads) else Threads(threads or _threads.available())


class Layers(NamedTuple):
    """Where layers lie in memory. The caller keeps the arrays alive until the step is over."""

    table: Integers  # (4, layers): addresses of θ, g, m, v
    sizes: Integers  # (layers,): coordinates
    dtype: str  # of θ and g

    @classmethod
    def of_arrays(
        cls, params: Sequence[Array], grads: Sequence[Array], ms: Sequence[Array], vs: Sequence[Array],
        dtype: str | None = None, slices: Sequence[int] | None = None,
    ) -> "Layers":  # fmt: skip
        """Of NumPy arrays; ``slices`` says how many layers each array stacks, by default one."""
        table = np.array([[x.__array_interface__["data"][0] for x in xs] for xs in (params, grads, ms, vs)], np.int64)
        sizes = np.array([x.size for x in params], np.int64)
        layers = cls(table.reshape(4, -1), sizes, dtype or (params[0].dtype.name if params else "float32"))
        return layers if slices is None else layers.cut(np.asarray(slices, np.int64))

    def cut(self, slices: Integers) -> "Layers":
        """Each layer as so many of equal size, one after the other."""
        whole = np.repeat(np.arange(len(slices)), slices)
        place = np.arange(len(whole)) - np.repeat(np.cumsum(slices) - slices, slices)
        sizes = (self.sizes // np.maximum(slices, 1))[whole]
        widths = [_STORED[dtype].itemsize for dtype in (self.dtype, COMPUTE_DTYPE[self.dtype])]
        table = self.table[:, whole] + np.repeat(widths, 2)[:, None] * (place * sizes)
        return Layers(table, sizes, self.dtype)


def contiguous_slices(shape: Sequence[int], layer_axes: Sequence[int] | None) -> int | None:
    """How many layers an array in C order stacks one after the other; None where they are interleaved."""
    axes = check_layer_axes(layer_axes, len(shape))
    lead = len(shape) - len(axes)
    if axes != tuple(range(lead, len(shape))):
        return None
    return math.prod(shape[:lead])


def step_layers(
    params: Sequence[Array],
    grads: Sequence[Array],
    ms: Sequence[Array],
    vs: Sequence[Array],
    ts: Sequence[int] | int,
    hp: Hyperparameters,
    *,
    dtype: str | None = None,
    slices: Sequence[int] | None = None,
    threads: int | None = None,
) -> None:
    """`step` of NumPy arrays, see `Layers.of_arrays`. ts: one number for each array, or one for all."""
    each = ts if slices is None or isinstance(ts, int) else np.repeat(ts, slices)
    step(Layers.of_arrays(params, grads, ms, vs, dtype, slices), each, hp, threads=threads)


def step(layers: Layers, ts: Any, hp: Hyperparameters, *, threads: Threads | int | None = None) -> None:
    """One step of all layers, in place. ts: the count of this step, a number for each layer, or one for all."""
    team = _granted(threads)
    plan = _plan(layers.sizes.tobytes(), "step", team.number)
    each = np.empty((3, len(layers.sizes)))
    each[0] = ts
    _run(layers, plan, np.empty((plan.first[-1], 4)), each, hp, 0, team)


def moments(layers: Layers, hp: Hyperparameters, *, threads: Threads | int | None = None) -> Parts:
    """The first pass: update m and v in place. θ is read where there is a coupled weight decay.

    Returns
    -------
    Parts : of what is here of each layer, float64 arrays of shape (layers,).
    """
    team = _granted(threads)
    plan = _plan(layers.sizes.tobytes(), "moments", team.number)
    parts = np.empty((plan.first[-1], 4))
    unused = np.empty((3, len(layers.sizes)))
    _run(layers, plan, parts, unused, hp, 0, team)
    return Parts(*parts[plan.first[:-1]].T)


def descend(
    layers: Layers, ts: Any, hp: Hyperparameters, gammas: Floats, lows: Floats, *, threads: Threads | int | None = None
) -> None:
    """The second pass: update θ in place, given γ and min v of each whole layer, after `moments`. No g is read."""
    team = _granted(threads)
    plan = _plan(layers.sizes.tobytes(), "descend", team.number)
    each = np.empty((3, len(layers.sizes)))
    each[0], each[1], each[2] = ts, gammas, lows
    _run(layers, plan, np.empty((0, 4)), each, hp, 1 << 62, team)


def count_up(addresses: Integers) -> Floats:
    """Add 1 to the float64 at each address, and return the new values."""
    from setadam_numpy import _compiled

    counts = np.empty(len(addresses))
    _compiled.count_up(addresses, counts)
    return counts


class _Plan(NamedTuple):
    """How threads share the step of layers of some sizes."""

    tasks: Integers  # of `_compiled.run`
    first: Integers  # each layer's first block
    coordinates: int


def _run(
    layers: Layers, plan: _Plan, parts: Floats, each: Floats, hp: Hyperparameters, done: int, team: Threads
) -> None:
    """Let threads do the tasks. each: the rows t, γ, min v; done: as how many blocks of a layer count as done.

    A block whose owner is a number that no thread has may be descended by any.
    """
    from setadam_numpy._compiled import OF_LAYERS, THREADS, run

    progress = np.zeros(OF_LAYERS + len(layers.sizes) + plan.first[-1], np.int64)
    if done:
        progress[OF_LAYERS:] = done
    progress[THREADS] = team.number
    stored, coefficients = _STORED[layers.dtype], _coefficients(hp, COMPUTE_DTYPE[layers.dtype])
    table, sizes = np.ascontiguousarray(layers.table), np.ascontiguousarray(layers.sizes)
    arrays = (plan.tasks, progress, table, sizes, plan.first, parts, *each, *coefficients)
    threads = min(team.number, len(plan.tasks))
    if threads < 2 or (team.openmp and plan.coordinates < _WORTH_SHARING):
        run(stored, *arrays)
    elif team.openmp:  # all of them: another number than the framework's would end some, and start them again
        _team.run_by_openmp(team.openmp, team.number, stored, *arrays)
    elif _team.exists():
        _team.run(threads, plan.coordinates, stored, *arrays)
    else:
        _compile(layers.dtype)
        _threads.together(threads, run, stored, *arrays)


@lru_cache
def _compile(dtype: str) -> None:
    """On this thread alone, by a step of no layers: an interrupt would have to wait for a helper that compiles."""
    step(Layers(np.empty((4, 0), np.int64), np.empty(0, np.int64), dtype), 1, Hyperparameters(), threads=1)


def _coefficients(hp: Hyperparameters, dtype: str) -> tuple[Array, Floats]:
    """The scalars of a step in the order of `_compiled`: formed in double, and rounded once to dtype."""
    decay, decoupled = float(hp.weight_decay), hp.decoupled_weight_decay
    beta1, beta2, eps, lr = float(hp.beta1), float(hp.beta2), float(hp.eps), float(hp.lr)
    sign = -1.0 if hp.maximize else 1.0
    coupled, keep = (0.0, 1 - lr * decay) if decoupled else (decay, 1.0)
    c = np.array([beta1, 1 - beta1, beta2, 1 - beta2, eps, sign, coupled, keep], dtype)
    logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
    return c, np.array([lr, *logs, float(hp.tau), eps, hp.cos_power, hp.eps_inside_sqrt], np.float64)


@lru_cache(maxsize=32)
def _plan(sizes: bytes, passes: str, threads: int) -> _Plan:
    """The tasks for layers of these sizes, and each layer's first block.

    A large layer, and one that is more than a thread's share of them all: the moments of its blocks, then its descent
    (from the front: memory is read faster that way than the cache's last blocks give back). Small layers: whole, so
    many at a time that taking a task costs nothing beside doing it.
    """
    from setadam_numpy._compiled import BLOCK, DESCEND, MOMENTS, WHOLE

    tasks: list[tuple[int, int, int]] = []
    first, begun, load = [0], None, 0
    counts = np.frombuffer(sizes, np.int64).tolist()
    whole = max(BLOCK, min(_WHOLE, -(-sum(counts) // threads)))
    for layer, size in enumerate(counts):
        blocks = max(1, -(-size // BLOCK))
        first.append(first[-1] + blocks)
        if passes == "step" and size <= whole:
            begun, load = layer if begun is None else begun, load + size
            if load >= BLOCK or layer + 1 == len(counts) or counts[layer + 1] > whole:
                tasks.append((WHOLE, begun, layer + 1))
                begun, load = None, 0
            continue
        if passes != "descend":
            tasks += [(MOMENTS, layer, layer + 1)] * blocks
        if passes != "moments":
            tasks += [(DESCEND, layer, layer + 1)] * blocks
    return _Plan(np.array(tasks, np.int64).reshape(-1, 3), np.array(first, np.int64), sum(counts))
