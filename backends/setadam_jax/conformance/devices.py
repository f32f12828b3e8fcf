"""One step over four host devices, in a process of its own: the number of devices is fixed when JAX starts."""

import functools
import multiprocessing
import multiprocessing.util
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from setadam_conformance.protocol import LayerState, NumPyArray
from setadam_jax import ScaleBySetAdamState
from setadam_jax.conformance.steps import one_step, optimizer_of

DEVICES = 4
LAYOUTS = ("jit", "shard_map")
_SECONDS = 120

Layers = tuple[list[NumPyArray], list[LayerState]]


def step_over_devices(*args: Any) -> Layers:
    """`_step` in the child process, which the first call starts."""
    return _started(os.getpid()).submit(_step, *args).result(timeout=_SECONDS)


@functools.cache
def _started(kit: int) -> ProcessPoolExecutor:
    process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_prepare)
    # A multiprocessing child closes its queues and then waits for its own children, which need the queues to end. So
    # end this one earlier.
    multiprocessing.util.Finalize(None, process.shutdown, exitpriority=100)
    return process


def _prepare() -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)


def _step(
    layout: str,
    params: Sequence[NumPyArray],
    grads: Sequence[NumPyArray],
    states: Sequence[LayerState],
    hp: Mapping[str, Any],
    layer_axes: Sequence[tuple[int, ...] | None],
) -> Layers:
    """One step with a share of the rows on each device. An array whose rows cannot be divided is replicated."""
    mesh = jax.make_mesh((DEVICES,), ("rows",))
    cut = [p.ndim > 0 and p.shape[0] % DEVICES == 0 for p in params]
    with jax.enable_x64(any(p.dtype in (np.float64, np.complex128) for p in params)):
        specs = [PartitionSpec("rows") if is_cut else PartitionSpec() for is_cut in cut]
        tree = (list(params), list(grads), [s.m for s in states], [s.v for s in states])
        placed = [[jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(xs, specs, strict=True)] for xs in tree]
        count = jax.numpy.asarray(states[0].t, jax.numpy.int32)
        spread = [
            "rows" if is_cut and (axes is None or 0 in axes) else None
            for is_cut, axes in zip(cut, layer_axes, strict=True)
        ]
        options = {"axis_name": lambda path, leaf: spread[path[0].idx]} if layout == "shard_map" else {}
        optimizer = optimizer_of(hp, layer_axes, **options)

        def update(params: Any, grads: Any, mu: Any, nu: Any, count: Any) -> Any:
            new, after = one_step(optimizer, params, grads, ScaleBySetAdamState(count, mu, nu))
            return new, after.mu, after.nu, after.count

        if layout == "shard_map":
            specs_in = (specs, specs, specs, specs, PartitionSpec())
            specs_out = (specs, specs, specs, PartitionSpec())
            update = jax.shard_map(update, mesh=mesh, in_specs=specs_in, out_specs=specs_out)
        new, mu, nu, count = jax.jit(update)(*placed, count)
    after = [LayerState(np.asarray(m), np.asarray(v), int(count)) for m, v in zip(mu, nu, strict=True)]
    return [np.asarray(p) for p in new], after
