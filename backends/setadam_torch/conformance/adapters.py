"""SETAdam as its options choose a path: the adapters that need nothing but this process."""

import copy
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import torch

from setadam_conformance.cases.case import copied
from setadam_conformance.protocol import Capabilities, LayerState, Native, NumPyArray
from setadam_torch import SETAdam, rounding
from setadam_torch.checks.options import step_device
from setadam_torch.checks.tensors import real
from setadam_torch.paths.choice import by_path, why_no_kernel
from setadam_torch.paths.columns import Columns
from setadam_torch.paths.foreach import Foreach
from setadam_torch.paths.protocol import two_passes

DTYPES = ("float64", "float32", "bfloat16", "float16")
RELOADS = ("state_dict", "pickle", "deepcopy", "torch.save")


class TorchSingle:
    """SETAdam with foreach=False; the base of the other paths."""

    name = "torch:single"
    framework = "torch"
    capabilities = Capabilities(
        dtypes=DTYPES, devices=("cpu", "cuda"), stochastic_rounding="specified", in_place=True, reloads=RELOADS
    )
    _foreach: bool | None = False
    _fused: bool | None = False

    def __init__(self, device: str = "cpu") -> None:
        kind = device.partition(":")[0]  # of "cuda:0"
        if kind not in self.capabilities.devices or (kind == "cuda" and not torch.cuda.is_available()):
            raise RuntimeError(f"{self.name} has no device {device!r}")
        self._device = torch.device(device)

    def from_numpy(self, x: NumPyArray) -> Native:
        x = copied(x)
        if x.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16).to(self._device)
        return torch.from_numpy(x).to(self._device)

    def to_numpy(self, x: Native) -> NumPyArray:
        x = x.detach().cpu()
        if x.dtype == torch.bfloat16:
            return x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
        return x.numpy()  # type: ignore[no-any-return]

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        optimizer = self.optimizer(params, hp, layer_axes)
        put(optimizer, params, grads, states)
        optimizer.step()
        return list(params), states_of(optimizer, params)

    def reload(
        self, how: str, params: Sequence[Native], states: Sequence[LayerState], hp: Mapping[str, Any]
    ) -> list[LayerState]:
        axes = [None] * len(params)
        optimizer = self.optimizer(params, hp, axes)
        put(optimizer, params, [None] * len(params), states)
        if how == "pickle":
            other = pickle.loads(pickle.dumps(optimizer))
        elif how == "deepcopy":
            other = copy.deepcopy(optimizer)
        else:
            state_dict = optimizer.state_dict()
            if how == "torch.save":
                file = io.BytesIO()
                torch.save(state_dict, file)
                file.seek(0)
                state_dict = torch.load(file, weights_only=True)
            elif how != "state_dict":
                raise ValueError(f"how must be one of {RELOADS}, got {how!r}")
            other = self.optimizer([p.clone() for p in params], hp, axes)
            other.load_state_dict(state_dict)
        return states_of(other, [p for group in other.param_groups for p in group["params"]])

    def optimizer(self, params: Sequence[Native], hp: Mapping[str, Any], layer_axes: Sequence[Any]) -> Any:
        options = dict(hp)
        if "beta1" in options or "beta2" in options:
            options["betas"] = (options.pop("beta1", 0.9), options.pop("beta2", 0.999))
        groups = [{"params": [p], "layer_axes": a} for p, a in zip(params, layer_axes, strict=True)]
        if len(set(layer_axes)) == 1:  # the layers of one group go through foreach together
            groups = [{"params": list(params), "layer_axes": layer_axes[0]}]
        return SETAdam(groups, foreach=self._foreach, fused=self._fused, **options)


class TorchForeach(TorchSingle):
    """The foreach path, for all layers: on a CPU, SETAdam with foreach=True gives those without gaps to blocks."""

    name = "torch:foreach"
    _foreach = True

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        optimizer = self.optimizer(params, hp, layer_axes)
        put(optimizer, params, grads, states)
        with torch.no_grad():
            _take(optimizer, lambda group, columns: Foreach.step(group, columns))
        return list(params), states_of(optimizer, params)


class TorchFused(TorchSingle):
    """SETAdam with fused=True."""

    name = "torch:fused"
    _foreach = None
    _fused = True

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        if (reason := why_no_kernel(self._device.type, torch.float32)) is not None:
            raise ImportError(reason)


class TorchBlocks(TorchSingle):
    """SETAdam with fused=False: what the default is on a CPU without Numba."""

    name = "torch:blocks"
    _foreach = None


class OwnChoice(TorchSingle):
    """SETAdam with its own choice of a path, as users make it; the base of adapters that do more."""

    _foreach = None
    _fused = None


class TorchTwoPasses(OwnChoice):
    """The two passes of each path, as a sharded step takes them, also where a whole step would be one call."""

    name = "torch:two-passes"
    capabilities = replace(TorchSingle.capabilities, reloads=())

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        optimizer = self.optimizer(params, hp, layer_axes)
        put(optimizer, params, grads, states)
        _take(optimizer, _in_two_passes)
        return list(params), states_of(optimizer, params)


def _complex(x: Native) -> Native:
    """A moment as a complex view. NumPy gives empty arrays strides that view_as_complex refuses."""
    return torch.view_as_complex(x if x.numel() else x.new_empty(x.shape))


def put(optimizer: Any, params: Sequence[Native], grads: Sequence[Native], states: Sequence[LayerState]) -> None:
    """Make the given tensors the optimizer's own gradients and state."""
    group_of = {id(param): group for group in optimizer.param_groups for param in group["params"]}
    for param, grad, state in zip(params, grads, states, strict=True):
        param.grad = grad
        m, v = (_complex(x) if param.is_complex() else x for x in (state.m, state.v))
        step = torch.tensor(float(state.t), dtype=torch.float64, device=step_device(param, group_of[id(param)]))
        optimizer.state[param] = {"step": step, "exp_avg": m, "exp_avg_sq": v}


def collected(optimizer: Any) -> list[tuple[Any, Columns]]:
    """Each group with its tensors, after all the checks of a step."""
    work = [(group, Columns([], [], [], [], [])) for group in optimizer.param_groups]
    for group, columns in work:
        optimizer._init_group(group, *columns)
    return work


def _take(optimizer: Any, step: Callable[[Any, Columns], None]) -> None:
    """A step of the optimizer, in which this function steps each group."""

    def steps(work: rounding.Work) -> None:
        for group, columns in work:
            step(group, columns)

    work = collected(optimizer)
    rounding.around(work, [optimizer._places(group) for group, _ in work], steps, unscales=False)


def _in_two_passes(group: Any, columns: Columns) -> None:
    for path, part in by_path(group, columns).items():
        two_passes(path, group, part)


def states_of(optimizer: Any, params: Sequence[Native]) -> list[LayerState]:
    entries = [optimizer.state[p] for p in params]
    return [LayerState(real(s["exp_avg"]), real(s["exp_avg_sq"]), int(s["step"])) for s in entries]
