"""Two processes between which `default` spreads parameters, as DTensors over gloo."""

import functools
import multiprocessing
import multiprocessing.util
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

import torch

from setadam_conformance.protocol import LayerState, NumPyArray
from setadam_torch.conformance.adapters import OwnChoice

RANKS = 2
LAYOUTS = ("rows", "columns", "replicas")
_SECONDS = 60  # after which a deadlock is an error

Layers = tuple[list[NumPyArray], list[LayerState]]


def step_sharded(layout: str, *args: Any) -> Layers:
    """`_step` in all processes, which start with the first call; the answer of the first."""
    _, processes = _started(os.getpid())
    answers = [process.submit(_step, layout, *args) for process in processes]
    first, *_ = [answer.result(timeout=_SECONDS) for answer in answers]
    return first


@functools.cache
def _started(kit: int) -> tuple[Any, list[ProcessPoolExecutor]]:
    """Where they meet, and one executor for each rank. A fork of the kit's process starts its own."""
    folder = tempfile.TemporaryDirectory(prefix="setadam")
    processes = [
        ProcessPoolExecutor(1, _context(), initializer=_join, initargs=(rank, folder.name)) for rank in range(RANKS)
    ]
    # A process that multiprocessing made waits for its children, after closing the queues that would let them go.
    for process in processes:
        multiprocessing.util.Finalize(None, process.shutdown, exitpriority=100)
    return folder, processes


def _context() -> Any:
    """On Linux, forks of a process that has imported what they need, and has no threads yet: PyTorch's imports
    take seconds, which are spent once. macOS's own libraries do not outlive a fork.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["setadam_torch.conformance", "torch.distributed.tensor", "torch._dynamo"])
    return context


def _join(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    address = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", address, timedelta(seconds=_SECONDS), rank=rank, world_size=RANKS)


def _step(
    layout: str,
    params: Sequence[NumPyArray],
    grads: Sequence[NumPyArray],
    states: Sequence[LayerState],
    hp: Mapping[str, Any],
    layer_axes: Sequence[tuple[int, ...] | None],
) -> Layers:
    """One step of DTensors, which each process cuts out of the whole arrays for itself."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    adapter, mesh = OwnChoice(), init_device_mesh("cpu", (RANKS,))

    def spread(x: NumPyArray, like: NumPyArray) -> Any:
        """Moments, whose complex numbers are pairs, by the shape of their parameter."""
        axis = {"rows": 0, "columns": like.ndim - 1}.get(layout)
        placement = Replicate() if axis is None or like.ndim == 0 else Shard(axis)
        own = adapter.from_numpy(x)
        own = torch.view_as_complex(own) if x.ndim > like.ndim else own
        return distribute_tensor(own, mesh, [placement], src_data_rank=None)

    def whole(x: Any, real: bool = False) -> NumPyArray:
        full = x.full_tensor().contiguous()
        return adapter.to_numpy(torch.view_as_real(full) if real and full.is_complex() else full)

    own = [spread(p, p) for p in params]
    optimizer = adapter.optimizer(own, hp, layer_axes)
    for param, p, grad, state in zip(own, params, grads, states, strict=True):
        param.grad = spread(grad, p)
        step = torch.tensor(float(state.t), dtype=torch.float64)
        optimizer.state[param] = {"step": step, "exp_avg": spread(state.m, p), "exp_avg_sq": spread(state.v, p)}
    optimizer.step()
    entries = [optimizer.state[p] for p in own]
    after = [LayerState(whole(s["exp_avg"], True), whole(s["exp_avg_sq"], True), int(s["step"])) for s in entries]
    return [whole(p) for p in own], after
