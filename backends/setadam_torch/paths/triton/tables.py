"""Where the layers of a step lie in memory, as the kernels read it, and their scratch memory.

A plan depends on addresses and sizes alone, and is looked up by them: a step over the same
tensors copies nothing to the device and allocates nothing. In a training loop the allocator gives the
gradients the same addresses again after a step or two.

CUDA graphs: a plan that a graph was captured with is kept for good, since replays read it. If the
gradients are new (as when `zero_grad` precedes the capture) the plan is made inside the capture. The
copy of its table is then a part of the graph. It reads pinned memory that was set aside before, since none
can be allocated during a capture. Only the graph uses such a plan, as its table is copied in replays alone.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from setadam_torch.checks import memory
from setadam_torch.checks.tensors import Tensor, Tensors, compute_dtype

PARTS, COEFFICIENTS = 4, 4  # rows of what the kernels keep of chunks and of layers
# Coordinates in a chunk: few, to keep every multiprocessor busy with small layers; more in large sets,
# so that a layer's chunks are soon put together.
_CHUNK, _LARGE_CHUNK, _LARGE = 4096, 16384, 1 << 25
_KEPT = 64  # plans
_CAPTURES = 8  # tables that fit the pinned memory set aside

Int64s = npt.NDArray[np.int64]


class Plan(NamedTuple):
    """The table of some layers on their device, and memory for the kernels' intermediate results."""

    layers: int
    chunks: int
    chunk: int  # coordinates in each
    most_chunks: int  # of one layer
    table: Tensor  # int64, a column of the kernels' after the other, each with an entry a layer
    owner: Tensor  # int64, the layer of each chunk
    partials: Tensor  # float64, PARTS × chunks
    parts: Tensor  # float64, PARTS × layers
    coefficients: Tensor  # float64, COEFFICIENTS × layers


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


_plans: dict[Any, Plan] = {}
_of_graphs: list[Any] = []  # plans and pinned memory that captured graphs refer to
_set_aside: list[Tensor] = []  # at most one piece of pinned memory


def plan_of(columns: Dense) -> Plan:
    """`plan_at` for tensors that nobody has looked at yet."""
    first = columns.params[0]
    addresses = memory.addresses([x for tensors in columns[:5] for x in tensors])
    if addresses is None:
        _check(columns)  # says more of a tensor on another device
        raise TypeError("the kernels take tensors that own the memory of their values alone")
    sizes, counts = np.array([x.numel() for x in columns.params], np.int64), np.array(columns.counts, np.int64)
    place = Place(first.device, first.dtype, np.array(addresses, np.int64).reshape(5, -1), sizes, counts)
    if _key(place) not in _plans:
        _check(columns)
    return plan_at(place)


def plan_at(place: Place) -> Plan:
    """The plan for tensors that lie there, from among those made before if it is there."""
    key, capturing = _key(place), _capturing(place.device)
    found = _plans.pop(key, None)
    if found is None:
        found = _make(place, capturing)
        if capturing:
            _of_graphs.append(found)
            return found
    elif capturing:
        _of_graphs.append(found)
    _plans[key] = found  # the last used is the last in order
    while len(_plans) > _KEPT:
        del _plans[next(iter(_plans))]
    return found


def _key(place: Place) -> Any:
    device, dtype, *numbers = place
    return device, _stream(device), dtype, *(x.tobytes() for x in numbers)


def _make(place: Place, capturing: bool) -> Plan:
    chunk = _CHUNK if place.sizes.sum() < _LARGE else _LARGE_CHUNK
    table, owner, most = lay_out(place, chunk)
    on_device = _to_device(np.concatenate([table.ravel(), owner]), place.device, capturing)
    layers, chunks = table.shape[1], owner.size
    scratch = {"dtype": torch.float64, "device": place.device}
    return Plan(
        layers,
        chunks,
        chunk,
        most,
        on_device[: table.size],
        on_device[table.size :],
        torch.empty(PARTS, chunks, **scratch),
        torch.empty(PARTS, layers, **scratch),
        torch.empty(COEFFICIENTS, layers, **scratch),
    )


def lay_out(place: Place, chunk: int) -> tuple[Int64s, Int64s, int]:
    """The table, (columns, layers), the layer of each chunk, and the largest number of chunks of a layer."""
    counts = place.counts
    tensor = np.repeat(np.arange(counts.size), counts)  # of each layer
    within = np.arange(tensor.size) - np.repeat(np.cumsum(counts) - counts, counts)
    size = (place.sizes // np.maximum(counts, 1))[tensor]
    base = place.addresses[:, tensor]
    width = np.array([place.dtype.itemsize] * 2 + [compute_dtype(place).itemsize] * 2, np.int64)
    chunks = np.maximum(-(-size // chunk), 1)  # an empty layer has an empty chunk, which counts the step
    first = np.cumsum(chunks) - chunks
    table = np.concatenate([base[:4] + width[:, None] * (within * size), [base[4], within == 0, size, first]])
    return table.astype(np.int64), np.repeat(np.arange(tensor.size), chunks), int(chunks.max(initial=0))


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


def _to_device(numbers: Int64s, device: Any, capturing: bool) -> Tensor:
    """A copy on the device, without waiting for it."""
    host = torch.from_numpy(numbers)
    if device.type != "cuda":
        return host
    if capturing:
        pinned = _take(numbers.size)
        _of_graphs.append(pinned)
    else:
        pinned = torch.empty(numbers.size, dtype=torch.int64, pin_memory=True, device="cpu")
        if not _set_aside or _set_aside[0].numel() < numbers.size:
            _set_aside[:] = [torch.empty(_CAPTURES * numbers.size, dtype=torch.int64, pin_memory=True, device="cpu")]
    pinned.copy_(host)
    return pinned.to(device, non_blocking=True)


def _take(size: int) -> Tensor:
    """Pinned memory, without an allocation if enough is set aside."""
    if _set_aside and _set_aside[0].numel() >= size:
        pinned, _set_aside[0] = _set_aside[0][:size], _set_aside[0][size:]
        return pinned
    return torch.empty(size, dtype=torch.int64, pin_memory=True, device="cpu")
