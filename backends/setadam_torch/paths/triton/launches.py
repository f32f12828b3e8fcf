"""The launches: all layers of a group in two, by kernels written in Triton.

One pass over memory updates the moments and gathers what γ and min w need, a second updates θ: 9 words
of traffic a coordinate, where a fused Adam has 7. The chunk of a layer that is done last puts its chunks
together. Nothing waits for the device, step counts are kept on it, and a step over tensors that were seen
before allocates nothing, so a CUDA graph can hold it. No result depends on the order in which chunks
happen to run.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from setadam_core.layers import check_layer_axes
from setadam_core.parts import Parts
from setadam_torch.checks import memory
from setadam_torch.checks.options import Group, hyperparameters
from setadam_torch.checks.tensors import Tensor, Tensors, compute_dtype, real
from setadam_torch.paths.columns import Columns, by_device_and_dtype
from setadam_torch.paths.parts import layer_count
from setadam_torch.paths.triton.tables import Dense, Int64s, Place, Plan, plan_at, plan_of, scratch_for

LANES = 512  # coordinates at a time: 4 for each of 128 threads, one 16-byte word each of float32
CONTRACT = {"enable_fp_fusion": True}  # Triton's own default changes from version to version
_PARTS = len(Parts._fields)


def step_layers(
    group: Group, columns: Sequence[Tensors], *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None
) -> None:
    """One step of many tensors, in place: two launches for each device and dtype.

    Parameters
    ----------
    group :
        Options as of SETAdam. An lr that is a Tensor on a device is read there.
    columns :
        Parameters, gradients, first and second moments, and step counts, see `Columns`. Strided tensors of any
        shape, checked by the caller; a tensor that is not dense, or whose layer_axes are not the trailing ones, is
        copied and copied back. Step counts are 0-d float64 tensors on the parameters' device.
    grad_scale, found_inf :
        One-element float32 tensors on a device, as of torch.amp.GradScaler. Gradients are divided by grad_scale,
        in place: after a scaler's step they are unscaled on all of torch's paths. Without it they are never
        written. Nothing changes, step counts included, where found_inf is not 0.

    Raises
    ------
    ValueError : sizes, devices, or a dtype of steps that do not fit. Nothing has been updated then.
    """
    for part in by_device_and_dtype(Columns(*columns)):
        with _contiguous(group, part, writes_grads=grad_scale is not None) as (dense, plan):
            _Kernels(group, dense, plan, found_inf).step(grad_scale)
    torch.autograd.graph.increment_version(columns[0])  # autograd does not see writes by address


def step_at(
    group: Group,
    params: Tensors,
    addresses: Int64s,
    sizes: Int64s,
    *,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """`step_layers` of tensors that have been checked and located: contiguous real ones of one device and dtype, each
    one layer.

    addresses : of parameters, gradients, first and second moments, and step counts, (5, parameters).
    sizes : coordinates of each parameter.
    """
    place = Place(params[0].device, params[0].dtype, addresses, sizes, np.ones_like(sizes))
    _Kernels(group, Dense(params, [], [], [], [], []), plan_at(place, params), found_inf).step(grad_scale)
    torch.autograd.graph.increment_version(params)


def moments(
    group: Group, columns: Sequence[Tensors], *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None
) -> Parts:
    """The first pass of `step_layers`, for tensors of one device and dtype: moments and step counts.

    Returns
    -------
    Parts : of what is here of each layer, float64 tensors of shape (layers,) on the device; the layers
        of a tensor with layer_axes follow one another. They mean nothing where found_inf is not 0.
    """
    with _contiguous(group, _of_one_kind(columns), writes_grads=grad_scale is not None) as (dense, plan):
        parts = torch.empty(_PARTS, plan.layers, dtype=torch.float64, device=dense.params[0].device)
        _Kernels(group, dense, plan, found_inf).moments(grad_scale, parts)
    return Parts(*parts)


def descend(
    group: Group, columns: Sequence[Tensors], gammas: Tensor, lows: Tensor, *, found_inf: Tensor | None = None
) -> None:
    """The second pass: θ of the same tensors, given γ and min v of each whole layer. No gradient is read.

    gammas, lows : contiguous float64 tensors of shape (layers,) on the device, as
        `setadam_core.parts.combine` makes them of the Parts of all processes.
    """
    kind = _of_one_kind(columns)._replace(grads=columns[0])
    with _contiguous(group, kind, writes_grads=False) as (dense, plan):
        kernels = _Kernels(group, dense, plan, found_inf)
        kernels.coefficients(gammas, lows)
        kernels.descend(counts=False)
    torch.autograd.graph.increment_version(columns[0])


class _Kernels:
    """The launches for one plan, and the arguments that they share."""

    def __init__(self, group: Group, columns: Dense, plan: Plan, found_inf: Tensor | None) -> None:
        from setadam_torch.paths.triton import kernels  # imports Triton, which other paths do without

        param = columns.params[0]
        self._source, self._plan, self._device = kernels, plan, param.device
        self._uncounted = [t for t, layers in zip(columns.steps, columns.counts, strict=True) if layers == 0]
        self._hp = hyperparameters(group)
        self._decoupled = self._hp.decays and self._hp.decoupled_weight_decay
        self._found_inf = _on(param.device, "found_inf", found_inf)
        lr = self._hp.lr  # a tensor on a device is read there
        lr_here = isinstance(lr, torch.Tensor) and lr.device.type == param.device.type
        self._lr_here = _on(param.device, "lr", lr) if lr_here else None
        self._lr = 0.0 if lr_here else float(lr)
        self._dtypes = {"PARAM": self._dtype(param.dtype), "COMPUTE": self._dtype(compute_dtype(param))}
        self._sizes: dict[str, int] = {"CHUNK": plan.chunk, "LANES": LANES, **CONTRACT}

    def step(self, grad_scale: Tensor | None) -> None:
        if self._plan.tasks is None:
            self.moments(grad_scale, None)
            self.descend(counts=True)
        else:
            self._first("step_kernel", 2 * self._plan.chunks, grad_scale, DECOUPLED=self._decoupled)

    def moments(self, grad_scale: Tensor | None, parts: Tensor | None) -> None:
        """The first pass. If parts are given they are filled, and the step is counted; else the second pass counts."""
        self._first("moments_kernel", self._plan.chunks, grad_scale, parts=parts)

    def _first(self, name: str, blocks: int, grad_scale: Tensor | None, **own: Any) -> None:
        """The first pass, or both."""
        hp, plan = self._hp, self._plan
        for t in self._uncounted:  # in a stack of no layers, no layer counts the step
            t.add_(1 if self._found_inf is None else (self._found_inf == 0).sum())
        if plan.layers == 0:
            return
        with self._on_device():
            scratch = scratch_for(plan)
            if name == "step_kernel":
                own = {"tasks": plan.tasks, "tickets": scratch.tickets, **own}
            getattr(self._source, name)[(blocks,)](
                plan.table,
                plan.owner,
                scratch.partials,
                scratch.arrived,
                plan.coefficients,
                plan.layers,
                plan.chunks,
                self._found_inf,
                _on(self._device, "grad_scale", grad_scale),
                self._lr_here,
                self._lr,
                hp.beta1,
                hp.beta2,
                _log(hp.beta1),
                _log(hp.beta2),
                hp.eps,
                hp.tau,
                hp.weight_decay,
                **own,
                MAXIMIZE=hp.maximize,
                COUPLED=hp.decays and not hp.decoupled_weight_decay,
                POWER=hp.cos_power,
                EPS_INSIDE=hp.eps_inside_sqrt,
                **self._dtypes,
                **self._sizes,
            )

    def coefficients(self, gammas: Tensor, lows: Tensor) -> None:
        hp, plan = self._hp, self._plan
        if plan.layers == 0:
            return
        with self._on_device():
            self._source.coefficients_kernel[(-(-plan.layers // LANES),)](
                plan.table,
                gammas,
                lows,
                plan.coefficients,
                plan.layers,
                self._found_inf,
                self._lr_here,
                self._lr,
                _log(hp.beta1),
                _log(hp.beta2),
                hp.eps,
                hp.tau,
                hp.weight_decay,
                COMPUTE=self._dtypes["COMPUTE"],
                EPS_INSIDE=hp.eps_inside_sqrt,
                LANES=LANES,
                **CONTRACT,
            )

    def descend(self, *, counts: bool) -> None:
        """The second pass, which counts the step if the first has not."""
        hp, plan = self._hp, self._plan
        if plan.layers == 0:
            return
        with self._on_device():
            self._source.descend_kernel[(plan.chunks,)](
                plan.table,
                plan.owner,
                plan.coefficients,
                plan.layers,
                self._found_inf,
                hp.eps,
                EPS_INSIDE=hp.eps_inside_sqrt,
                DECOUPLED=self._decoupled,
                COUNT=counts,
                **self._dtypes,
                **self._sizes,
            )

    def _dtype(self, dtype: Any) -> Any:
        return self._source.DTYPES[str(dtype).removeprefix("torch.")]

    def _on_device(self) -> Any:
        """Triton launches on the current device. Its interpreter has none."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()


def _of_one_kind(columns: Sequence[Tensors]) -> Columns:
    kinds = by_device_and_dtype(Columns(*columns))
    if len(kinds) != 1:
        raise ValueError(f"params must be tensors of one device and dtype, got {len(kinds)} kinds")
    return kinds[0]


@contextmanager
def _contiguous(group: Group, columns: Columns, *, writes_grads: bool) -> Iterator[tuple[Dense, Plan]]:
    """The tensors as contiguous real ones, of which the layers are contiguous parts, and their plan.
    They share memory with the tensors given where that is laid out so, else the copies are copied back.
    """
    main, steps = list(columns[:4]), columns.steps
    axes, counts, copies = group["layer_axes"], [1] * len(steps), []
    if axes is not None or main[0][0].is_complex() or not all(x.is_contiguous() for xs in main for x in xs):
        counts = [layer_count(param, axes) for param in main[0]]
        orders = [_memory_order(param, axes) for param in main[0]]
        views = [[real(x).permute(order) for x, order in zip(xs, orders, strict=True)] for xs in main]
        main = [[view.contiguous() for view in xs] for xs in views]
        written = [0, 1, 2, 3] if writes_grads else [0, 2, 3]
        copies = [
            (view, copy)
            for i in written
            for view, copy in zip(views[i], main[i], strict=True)
            if copy is not view  # what is contiguous already is returned itself
        ]
    dense = Dense(main[0], main[1], main[2], main[3], steps, counts)
    yield dense, plan_of(dense, columns.params)
    for view, copy in copies:
        view.copy_(copy)


def _memory_order(param: Tensor, layer_axes: Any) -> list[int]:
    """The axes of a real view, those of a layer last; in the order of memory if the view is one layer."""
    x = real(param)
    if layer_axes is None:
        return sorted(range(x.ndim), key=lambda axis: -x.stride(axis))
    inner = check_layer_axes(layer_axes, param.ndim) + ((param.ndim,) if param.is_complex() else ())
    return [axis for axis in range(x.ndim) if axis not in inner] + list(inner)


def _on(device: Any, name: str, x: Tensor | None) -> Tensor | None:
    """A tensor of one number on the device, where the kernels read it by its address. TypeError if it has none."""
    if x is None:
        return None
    x = x.to(device, non_blocking=True)
    if not memory.hold_values([x]):
        raise TypeError(f"{name} must own the memory of its value, got a {type(x).__name__}")
    return x


def _log(beta: float) -> float:
    return math.log(beta) if beta else -math.inf
