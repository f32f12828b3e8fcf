"""The usual step on the CPU: everything is as it should be, and the kernel is given addresses.

That it is so is found out for all layers at once, in a fraction of the time that Python takes to look at each.
Where something is otherwise, or in doubt, nothing is done here, and the general way finds out what it is.
"""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

import torch

from setadam_numpy import kernel
from setadam_torch import _fused
from setadam_torch._layers import Group, Tensor, check_group, check_representable

_state_of = itemgetter("exp_avg", "exp_avg_sq", "step")


def step(groups: Iterable[Group], state: Mapping[Tensor, Any]) -> bool:
    """Update all groups, or none and return False. Raises what is wrong with an option."""
    work = []
    for group in groups:
        hp = check_group(group)
        columns = _columns(group, state)
        located = _located(group, columns) if columns is not None else None
        if columns is None or located is None:
            return False
        check_representable(columns[0][:1], hp)
        work.append((columns[0], hp, located))
    for params, hp, located in work:
        kernel.step(located.layers, kernel.count_up(located.counts), hp, threads=torch.get_num_threads())
        torch.autograd.graph.increment_version(params)  # autograd does not see what is written by address
    return True


def _columns(group: Group, state: Mapping[Tensor, Any]) -> Any:
    """Params, grads, exp_avgs, exp_avg_sqs, steps; None where there is none, or no state yet."""
    params = group["params"]
    grads = [param.grad for param in params]
    if type(None) in set(map(type, grads)):
        params = [param for param, grad in zip(params, grads, strict=True) if grad is not None]
        grads = [grad for grad in grads if grad is not None]
    try:
        rows = list(map(_state_of, map(state.__getitem__, params)))
    except KeyError:
        return None
    return (params, grads, *zip(*rows, strict=True)) if rows else None


def _located(group: Group, columns: Any) -> Any:
    first = columns[0][0]
    if not (first.is_cpu and _fused.wanted(group)) or group["layer_axes"] is not None:
        return None
    if _fused.why_not("cpu", first.dtype) is not None:
        return None
    from setadam_torch import _dlpack  # needs Numba

    return _dlpack.locate(first.dtype, *columns)
