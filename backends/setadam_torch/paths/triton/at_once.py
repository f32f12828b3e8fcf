"""The usual step on a CUDA device: each tensor is looked at once, and one table of addresses goes to the launches.

The general way asks of each tensor first whether the optimizer may update it, then which path takes it, then where it
lies: each time its type, dtype, device, order in memory and address. The host would take longer than the device takes
for a model of a hundred million parameters. Where anything is in doubt, nothing is done here.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from setadam_torch.checks import in_bulk, mesh
from setadam_torch.checks.options import Group, check_group
from setadam_torch.checks.params import check_representable
from setadam_torch.checks.tensors import Tensor, Tensors
from setadam_torch.paths.triton import launches
from setadam_torch.paths.triton.path import Triton
from setadam_torch.paths.triton.tables import Int64s


def step(
    groups: Iterable[Group],
    state: Mapping[Tensor, Any],
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> bool:
    """Update all groups, or none and return False. Raises what is wrong with an option.

    grad_scale, found_inf : as of torch.amp.GradScaler, see `launches.step_layers`.
    """
    work = []
    for group in groups:
        if not group["fused"]:
            return False
        hp = check_group(group)
        found = [(param, grad) for param in group["params"] if (grad := param.grad) is not None]
        if not found:
            continue
        params, grads = map(list, zip(*found, strict=True))
        addresses = _located(group, params, grads, [state.get(param, {}) for param in params])
        if addresses is None:
            return False
        check_representable(params[:1], hp)
        work.append((group, params, addresses, np.array([param.numel() for param in params], np.int64)))
    for group, params, addresses, sizes in work:
        launches.step_at(group, params, addresses, sizes, grad_scale=grad_scale, found_inf=found_inf)
    return bool(work)


def _located(group: Group, params: Tensors, grads: Tensors, states: list[dict[str, Any]]) -> Int64s | None:
    """The addresses of all tensors, (5, parameters), if the kernels can take them as they are."""
    if group["layer_axes"] is not None or Triton.why_not(group, params[:1]) or Triton.missing(params[0].dtype):
        return None
    if not mesh.are_unmarked(params):
        return None
    if has_numba():
        from setadam_torch.paths.cpu_kernel import dlpack  # needs Numba

        located = dlpack.locate(params[0].dtype, params, grads, states)
        if located is not None:
            return np.concatenate([located.layers.table, located.counts[None]])
    addresses = in_bulk.locate(group, params, grads, states)
    return None if addresses is None else np.array(addresses, np.int64).reshape(5, -1)


@lru_cache
def has_numba() -> bool:
    """Asked once: a module that is missing is looked for in every folder."""
    return find_spec("numba") is not None
