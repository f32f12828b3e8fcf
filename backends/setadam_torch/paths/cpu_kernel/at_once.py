"""The usual step on the CPU: the checks and the addresses of all layers at once, then one call of the kernel.

The checks take a fraction of the time that Python needs to look at each layer. Where one fails or is in doubt,
nothing is done here, and the general way finds out why.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from setadam_numpy import kernel
from setadam_torch.checks import mesh
from setadam_torch.checks.options import Group, check_group, leaves_choice_to_kernel
from setadam_torch.checks.params import check_representable
from setadam_torch.checks.tensors import Tensor, Tensors
from setadam_torch.paths.cpu_kernel.path import CPUKernel
from setadam_torch.paths.cpu_kernel.team import team


def step(groups: Iterable[Group], state: Mapping[Tensor, Any]) -> bool:
    """Update all groups, or none and return False. Raises what is wrong with an option. While it runs, no other
    thread may replace the tensors of a state.
    """
    work = []
    for group in groups:
        if not all(param.is_cpu for param in group["params"][:1]):
            return False
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
        torch.autograd.graph.increment_version(params)  # autograd does not see writes by address
        kernel.step(located.layers, kernel.count_up(located.counts), hp, threads=team())
    return True


def _located(group: Group, params: Tensors, grads: Tensors, states: list[Any]) -> Any:
    if not params or not params[0].is_cpu or not leaves_choice_to_kernel(group) or group["layer_axes"] is not None:
        return None
    if CPUKernel.missing(params[0].dtype) is not None or not mesh.are_unmarked(params):
        return None
    from setadam_torch.paths.cpu_kernel import dlpack  # needs Numba

    return dlpack.locate(params[0].dtype, params, grads, states)
