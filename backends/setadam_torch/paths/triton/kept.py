"""What stays in memory between steps: plans, the kernels' scratch memory, and what captured CUDA graphs read.

Plans are kept up to a number of bytes, those used last. Scratch memory is shared by all launches on one stream of a
device, which use it in turn. A replay reads what a capture was given, at the same addresses, so this is kept for as
long as a replay can make sense: until the memory of one of the parameters has been freed.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from setadam_torch.checks.tensors import Tensor

PLANS_BYTES = 16 << 20  # of all plans together; that of GPT-2 small has 0.1 MB
_PARTS = 4  # numbers that the kernels keep of each chunk
_TICKETS = 2
_CAPTURES = 8  # tables that fit the pinned memory set aside


class Scratch(NamedTuple):
    """Memory that nothing uses between launches."""

    partials: Tensor  # float64, _PARTS × chunks, or more
    arrived: Tensor  # int32, for each layer; 0 between launches
    tickets: Tensor  # int32, taken and done; 0 between launches


_plans: dict[Any, tuple[Any, int]] = {}  # with their bytes, those used last at the end
_scratch: dict[Any, Scratch] = {}
_of_graphs: list[tuple[list[StorageWeakRef], Any]] = []
_set_aside: list[Tensor] = []  # at most one piece of pinned memory


def forget() -> None:
    """Keep nothing."""
    for kept in (_plans, _scratch, _of_graphs, _set_aside):
        kept.clear()


def find_plan(key: Any) -> Any | None:
    """The plan kept under this key, which is now the one used last."""
    found = _plans.pop(key, None)
    if found is None:
        return None
    _plans[key] = found
    return found[0]


def keep_plan(key: Any, plan: Any, size: int) -> None:
    """Keep a plan of this many bytes. Plans that have not been used for longest make room."""
    _plans[key] = plan, size
    total = sum(size for _, size in _plans.values())
    while total > PLANS_BYTES and len(_plans) > 1:
        total -= _plans.pop(next(iter(_plans)))[1]


def scratch_of(device: Any, stream: int, chunks: int, layers: int, capturing: bool) -> Scratch:
    """Scratch memory for a launch. In a capture it comes from the graph's own memory, and is set to 0 in replays."""
    old = None if capturing else _scratch.get((device, stream))
    if old is not None and old.partials.numel() >= _PARTS * chunks and old.arrived.numel() >= layers:
        return old
    if old is not None:  # both grow at once, by a half at least, so that a training run settles
        chunks = max(chunks, old.partials.numel() * 3 // (2 * _PARTS))
        layers = max(layers, old.arrived.numel() * 3 // 2)
    new = Scratch(
        torch.empty(_PARTS * chunks, dtype=torch.float64, device=device),
        torch.zeros(layers, dtype=torch.int32, device=device),
        torch.zeros(_TICKETS, dtype=torch.int32, device=device),
    )
    if not capturing:
        _scratch[device, stream] = new
    return new


def keep_for_graph(params: Iterable[Tensor], what: Any) -> None:
    """Keep something that the graph being captured reads, until the memory of one of the parameters is freed."""
    _of_graphs[:] = [kept for kept in _of_graphs if not any(owner.expired() for owner in kept[0])]
    owners = {x.untyped_storage()._cdata: x.untyped_storage() for x in params}
    _of_graphs.append(([StorageWeakRef(storage) for storage in owners.values()], what))


def pinned(size: int, capturing: bool) -> Tensor:
    """Pinned memory for a table. During a capture none can be allocated, so it is taken from what was set aside."""
    if capturing and _set_aside and _set_aside[0].numel() >= size:
        taken, _set_aside[0] = _set_aside[0][:size], _set_aside[0][size:]
        return taken
    if not capturing and (not _set_aside or _set_aside[0].numel() < size):
        _set_aside[:] = [_pinned(_CAPTURES * size)]
    return _pinned(size)


def _pinned(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.int64, pin_memory=True, device="cpu")
