"""Where the layers of a step lie in memory, as the kernels read it.

A plan depends on addresses and sizes alone, and is looked up by them: a step over the same
tensors copies nothing to the device and allocates nothing. In a training loop the allocator gives the
gradients the same addresses again after a step or two.

CUDA graphs: if the gradients are new (as when `zero_grad` precedes the capture) the plan is made inside the
capture. The copy of its table is then a part of the graph. It reads pinned memory that was set aside before, since none
can be allocated during a capture. Only the graph uses such a plan, as its table is copied in replays alone. What is
allocated during a capture belongs to the graph, and lives as long.
"""

import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from setadam_torch.checks import memory
from setadam_torch.checks.tensors import Tensor, Tensors, compute_dtype
from setadam_torch.paths.triton import kept

_COEFFICIENTS = 4  # numbers that the update of a layer needs
# Coordinates in a chunk: few, to keep every multiprocessor busy with small layers; more in large sets,
# so that a layer's chunks are soon put together.
_CHUNK, _LARGE_CHUNK, _LARGE = 4096, 16384, 1 << 25

# Both passes in one launch, see `order`. It has not run on a GPU: it is not known whether it is faster, and where.
ONE_LAUNCH = os.environ.get("SETADAM_ONE_LAUNCH") == "1"

Int64s = npt.NDArray[np.int64]


class Plan(NamedTuple):
    """The table of some layers on their device, and memory for what the kernels find out about them."""

    layers: int
    chunks: int
    chunk: int  # coordinates in each
    table: Tensor  # int64, a column of the kernels' after the other, each with an entry a layer
    owner: Tensor  # int64, the layer of each chunk
    coefficients: Tensor  # float64, _COEFFICIENTS × layers
    tasks: Tensor | None  # int64, see `order`; None for two launches
    stream: int  # on which the table was copied; see `_stream`


class Dense(NamedTuple):
    """Contiguous real tensors of one device and dtype, a column for each role, and how many layers each tensor has."""

    params: Tensors
    grads: Tensors
    exp_avgs: Tensors
    exp_avg_sqs: Tensors
    steps: Tensors
    counts: list[int]


class Place(NamedTuple):
    """Where tensors like those of `Dense` lie, a column for each parameter: all that a plan depends on."""

    device: Any
    dtype: Any  # of the parameters
    addresses: Int64s  # of the five tensors, (5, parameters)
    sizes: Int64s  # in coordinates
    counts: Int64s  # of layers


def plan_of(columns: Dense, params: Tensors) -> Plan:
    """`plan_at` for tensors that nobody has looked at yet."""
    first = columns.params[0]
    addresses = memory.addresses([x for tensors in columns[:5] for x in tensors])
    if addresses is None:
        _check(columns)  # says more of a tensor on another device
        raise TypeError("the kernels take tensors that own the memory of their values alone")
    sizes, counts = np.array([x.numel() for x in columns.params], np.int64), np.array(columns.counts, np.int64)
    place = Place(first.device, first.dtype, np.array(addresses, np.int64).reshape(5, -1), sizes, counts)
    if kept.find_plan(_key(place)) is None:
        _check(columns)
    return plan_at(place, params)


def plan_at(place: Place, params: Tensors) -> Plan:
    """The plan for tensors that lie there, from among those made before if it is there.

    params : the parameters of the step, for as long as whose memory a graph that is being captured may be replayed.
    """
    key, capturing = _key(place), _capturing(place.device)
    plan = kept.find_plan(key)
    if plan is None:
        plan = _make(place, capturing, params)
        if not capturing:
            kept.keep_plan(key, plan, 8 * (plan.table.numel() + plan.owner.numel() + plan.coefficients.numel()))
    elif capturing:
        kept.keep_for_graph(params, plan)
    return plan


def scratch_for(plan: Plan) -> kept.Scratch:
    """Scratch memory for a launch that is the next on the plan's stream."""
    device = plan.table.device
    return kept.scratch_of(device, plan.stream, plan.chunks, plan.layers, _capturing(device))


def _key(place: Place) -> Any:
    device, dtype, *numbers = place
    return device, _stream(device), dtype, ONE_LAUNCH, *(x.tobytes() for x in numbers)


def _make(place: Place, capturing: bool, params: Tensors) -> Plan:
    chunk = _CHUNK if place.sizes.sum() < _LARGE else _LARGE_CHUNK
    table, owner = lay_out(place, chunk)
    tasks = order(owner, _ahead(place.device)) if ONE_LAUNCH else owner[:0]
    numbers = [table.ravel(), owner, tasks]
    there = _to_device(np.concatenate(numbers), place.device, capturing, params).split([x.size for x in numbers])
    layers = table.shape[1]
    coefficients = torch.empty(_COEFFICIENTS * layers, dtype=torch.float64, device=place.device)
    listed = there[2] if ONE_LAUNCH else None
    return Plan(layers, owner.size, chunk, there[0], there[1], coefficients, listed, _stream(place.device))


def lay_out(place: Place, chunk: int) -> tuple[Int64s, Int64s]:
    """The table, (columns, layers), and the layer of each chunk."""
    counts = place.counts
    tensor = np.repeat(np.arange(counts.size), counts)  # of each layer
    within = np.arange(tensor.size) - np.repeat(np.cumsum(counts) - counts, counts)
    size = (place.sizes // np.maximum(counts, 1))[tensor]
    base = place.addresses[:, tensor]
    width = np.array([place.dtype.itemsize] * 2 + [compute_dtype(place).itemsize] * 2, np.int64)
    chunks = np.maximum(-(-size // chunk), 1)  # an empty layer has an empty chunk, which counts the step
    first = np.cumsum(chunks) - chunks
    table = np.concatenate([base[:4] + width[:, None] * (within * size), [base[4], within == 0, size, first]])
    return table.astype(np.int64), np.repeat(np.arange(tensor.size), chunks)


def order(owner: Int64s, ahead: int) -> Int64s:
    """The tasks of a step in one launch: 2c for the moments of chunk c, 2c + 1 for its descent.

    Moments go in the order of memory. A layer descends, its last chunk first, when the moments of as many chunks more
    are listed as are ahead: they are computed while its own are finished. What it reads again was read and written at
    most that long, and a layer's length, before, and is still in the cache if the layer is small enough.
    """
    chunks = np.arange(owner.size)
    last = np.searchsorted(owner, owner, side="right") - 1  # chunk of the same layer
    turns = np.concatenate([chunks, last[::-1] + ahead])
    place = np.argsort(turns, kind="stable")  # of equal turns, moments come first
    return np.where(place < owner.size, 2 * place, 2 * (2 * owner.size - 1 - place) + 1)


def _ahead(device: Any) -> int:
    """One chunk for each multiprocessor."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 1


def _stream(device: Any) -> int:
    """The current stream: memory is freed and used again in the order of the stream that it is of."""
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


def _capturing(device: Any) -> bool:
    return device.type == "cuda" and bool(torch.cuda.is_current_stream_capturing())


def _check(columns: Dense) -> None:
    """Refuse what the kernels would read as memory of another kind."""
    first = columns.params[0]
    dtypes = first.dtype, first.dtype, compute_dtype(first), compute_dtype(first), torch.float64
    for i, row in enumerate(zip(*columns[:5], strict=True)):
        for name, x, dtype in zip(("param", "grad", "exp_avg", "exp_avg_sq", "step"), row, dtypes, strict=True):
            size = 1 if name == "step" else row[0].numel()
            if x.device != first.device:
                raise ValueError(f"{name} {i} must be on {first.device}, got {x.device}")
            if x.dtype != dtype:
                raise ValueError(f"{name} {i} must have dtype {dtype}, got {x.dtype}")
            if x.numel() != size:
                raise ValueError(f"{name} {i} must have {size} coordinates, got {x.numel()}")


def _to_device(numbers: Int64s, device: Any, capturing: bool, params: Tensors) -> Tensor:
    """A copy on the device, without waiting for it."""
    host = torch.from_numpy(numbers)
    if device.type != "cuda":
        return host
    pinned = kept.pinned(numbers.size, capturing)
    if capturing:
        kept.keep_for_graph(params, pinned)
    pinned.copy_(host)
    return pinned.to(device, non_blocking=True)
