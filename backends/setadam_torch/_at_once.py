"""The usual step on the CPU: everything is as it should be, and the kernel is given addresses.

That it is so is found out for all layers at once, in a fraction of the time that Python takes to look at each.
Where something is otherwise, or in doubt, nothing is done here, and the general way finds out what it is.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from setadam_numpy import kernel
from setadam_torch import _fused, _mesh
from setadam_torch._layers import Group, Tensor, Tensors, check_group, check_representable


def step(groups: Iterable[Group], state: Mapping[Tensor, Any]) -> bool:
    """Update all groups, or none and return False. Raises what is wrong with an option. While it runs, no other
    thread may put other tensors into a state.
    """
    work = []
    for group in groups:
        hp, params = check_group(group), group["params"]
        grads = [param.grad for param in params]
        if type(None) in set(map(type, grads)):
            params = [param for param, grad in zip(params, grads, strict=True) if grad is not None]
            grads = [grad for grad in grads if grad is not None]
        located = _located(group, params, grads, [state.get(param) for param in params])
        if located is None:
            return False
        check_representable(params[:1], hp)
        work.append((params, hp, located))
    for params, hp, located in work:
        torch.autograd.graph.increment_version(params)  # autograd does not see what is written by address
        kernel.step(located.layers, kernel.count_up(located.counts), hp, threads=torch.get_num_threads())
    return True


def _located(group: Group, params: Tensors, grads: Tensors, states: list[Any]) -> Any:
    if not params or not params[0].is_cpu or not _fused.wanted(group) or group["layer_axes"] is not None:
        return None
    if _fused.why_not("cpu", params[0].dtype) is not None or not _mesh.are_unmarked(params):
        return None
    from setadam_torch import _dlpack  # needs Numba

    return _dlpack.locate(params[0].dtype, params, grads, states)
