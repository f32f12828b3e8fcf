"""DTensors and device meshes: which processes hold parts of a layer, and what they must be.

`torch.distributed.tensor` takes long to import. Until someone has imported it, there is no DTensor.
"""

import functools
import sys
from itertools import chain
from typing import Any, NamedTuple

import torch

from setadam_core.layers import check_layer_axes

Tensor = Any
_PLAIN = {torch.Tensor, torch.nn.Parameter}
_FSDP1, _ZERO3 = ("_is_flat_param", "_fsdp_flattened"), "ds_id"  # attributes that wrappers leave on parameters
_MARKS = frozenset((*_FSDP1, _ZERO3))


def is_dtensor(x: Tensor) -> bool:
    """Whether a tensor is spread over processes."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def any_dtensor(xs: list[Tensor]) -> bool:
    """Whether one of the tensors is spread over processes. Looks at each type once."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and any(issubclass(kind, module.DTensor) for kind in set(map(type, xs)))


def local_part(x: Tensor) -> Tensor:
    """The part of a DTensor that is here. It is not a copy: writing to it updates the DTensor."""
    return waited(x._local_tensor)  # that of a redistributed gradient is the result of a collective


def waited(x: Tensor) -> Tensor:
    """The result of a functional collective, waited for (an AsyncCollectiveTensor); any other tensor itself."""
    module = sys.modules.get("torch.distributed._functional_collectives")
    return x.wait() if module is not None and isinstance(x, module.AsyncCollectiveTensor) else x


class Holders(NamedTuple):
    """The processes that together hold a layer once. Those with replicas of the same parts are not among them."""

    ranks: tuple[int, ...]
    mesh: Any
    dims: tuple[int, ...]  # of the mesh, along which the layer is cut

    def all_gather(self, x: Tensor) -> Tensor:
        """The x of each process, stacked in the order of their ranks. The one collective."""
        import torch.distributed as dist

        on = x if x.device.type == self.mesh.device_type else x.to(self.mesh.device_type)  # offloaded parameters
        out = on.new_empty((len(self.ranks) * x.shape[0], *x.shape[1:]))
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its older name
        gather(out, on.contiguous(), group=self._process_group())
        return out.view(len(self.ranks), *x.shape).to(x.device)

    def _process_group(self) -> Any:
        if len(self.dims) == 1:
            return self.mesh.get_group(self.dims[0])
        return _group_of(self.ranks)


_groups: dict[tuple[int, ...], Any] = {}


def _group_of(ranks: tuple[int, ...]) -> Any:
    """A process group of these ranks, made once. Only its members take part in making it."""
    import torch.distributed as dist

    if len(ranks) == dist.get_world_size():
        return dist.group.WORLD
    try:
        dist.get_process_group_ranks(_groups[ranks])
    except (KeyError, ValueError):  # none yet, or one of a world that was destroyed
        _groups[ranks] = dist.new_group(list(ranks), use_local_synchronization=True)
    return _groups[ranks]


def holders_of(param: Tensor, layer_axes: Any) -> Holders | None:
    """Who holds parts of the same layers as this process; None if it holds whole layers, or nothing.

    A mesh dimension that cuts the parameter between layers (experts stacked along the axis, say) does not
    spread a layer, nor does one that replicates it.
    """
    mesh, axes = param.device_mesh, check_layer_axes(layer_axes, param.ndim)
    cuts = ((dim, _axis(placement)) for dim, placement in enumerate(param.placements))
    dims = tuple(dim for dim, axis in cuts if axis in axes and mesh.size(dim) > 1)
    ranks = _ranks(mesh, dims) if dims else ()
    return Holders(ranks, mesh, dims) if ranks else None


@functools.lru_cache(maxsize=1024)
def _ranks(mesh: Any, dims: tuple[int, ...]) -> tuple[int, ...]:
    """The global ranks along some dimensions of a mesh through this process; none if it is not in it."""
    here = mesh.get_coordinate()
    if here is None:
        return ()
    index = tuple(slice(None) if dim in dims else here[dim] for dim in range(mesh.ndim))
    return tuple(sorted(mesh.mesh[index].flatten().tolist()))


def _axis(placement: Any) -> int | None:
    """The axis that a placement cuts; None if it replicates. Strided shards are not a subclass of Shard."""
    return getattr(placement, "dim", None)


def check(param: Tensor, differentiable: bool) -> None:
    """Refuse a DTensor whose layers cannot be combined from its parts."""
    for placement in param.placements:
        if placement.is_partial() or not (placement.is_replicate() or isinstance(_axis(placement), int)):
            raise TypeError(f"it must be placed by Shard and Replicate, got {placement}")
    if differentiable:
        raise ValueError("differentiable must be False for a sharded parameter, got True")


def check_places(param: Tensor) -> None:
    """Refuse a DTensor for stochastic rounding, if the places of its local coordinates in the whole are not known."""
    from torch.distributed.tensor import Replicate, Shard

    for placement in param.placements:
        if type(placement) not in (Replicate, Shard):
            raise ValueError(
                "stochastic_rounding must be False for a parameter that is placed by other than Shard and Replicate, "
                f"got {placement}: a coordinate's random number belongs to its place in the whole"
            )


def check_gradient(param: Tensor, grad: Tensor) -> None:
    """Refuse a gradient that cannot be redistributed as its parameter is."""
    if is_dtensor(param) != is_dtensor(grad):
        what = "a DTensor" if is_dtensor(param) else "a plain tensor"
        raise TypeError(f"its gradient must be {what}, as it is itself, got {type(grad).__name__}")
    if is_dtensor(param) and grad.device_mesh != param.device_mesh:
        raise ValueError(f"its gradient must be on its mesh {param.device_mesh}, got {grad.device_mesh}")


def check_not_flattened(param: Tensor, together: list[Tensor]) -> None:
    """Refuse a parameter into which a wrapper has flattened several layers, or of which it has cut a layer anywhere.

    DeepSpeed's ZeRO 1 and 2 put one flat float32 copy of a slice of all parameters, which is no Parameter,
    in place of a group's parameters, and leave no other mark; ZeRO 3 marks what it partitions.
    """
    wrapper = None
    if any(getattr(param, mark, False) for mark in _FSDP1):
        wrapper = "FSDP1 (FullyShardedDataParallel)"
    elif hasattr(param, _ZERO3):
        wrapper = "DeepSpeed's ZeRO 3"
    elif "deepspeed" in sys.modules and len(together) == param.ndim == 1 and not isinstance(param, torch.nn.Parameter):
        wrapper = "DeepSpeed's ZeRO 1 or 2"
    if wrapper is not None:
        raise TypeError(
            f"it is flattened by {wrapper}, so that the layers, over which SET-Adam takes γ and the minimum, cannot "
            "be told apart: use torch.distributed.fsdp.fully_shard (FSDP2), or whole layers on each process with "
            "DistributedDataParallel and ZeroRedundancyOptimizer"
        )


def are_plain(params: list[Tensor], *others: list[Tensor]) -> bool:
    """Whether all tensors are of torch's own classes, and no wrapper has flattened a parameter."""
    return set(map(type, chain(params, *others))) <= _PLAIN and are_unmarked(params)


def are_unmarked(params: list[Tensor]) -> bool:
    """Whether no wrapper has flattened a parameter. Without a process group, FSDP1 cannot have."""
    if "deepspeed" in sys.modules:
        return False
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or all(map(_MARKS.isdisjoint, map(vars, params)))


def check_placed_alike(param: Tensor, moment: Tensor, name: str) -> None:
    """Refuse a moment from outside of which this process does not hold the part of its parameter."""
    if is_dtensor(param) == is_dtensor(moment) and (
        not is_dtensor(param) or (moment.device_mesh == param.device_mesh and moment.placements == param.placements)
    ):
        return
    where = moment.placements if is_dtensor(moment) else f"a {type(moment).__name__} that is whole"
    own = param.placements if is_dtensor(param) else "a plain tensor"
    raise ValueError(
        f"{name} must be placed as its parameter, {own}, got {where}: load sharded optimizers with "
        "torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"
    )
