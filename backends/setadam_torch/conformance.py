"""The paths of SETAdam for the conformance kit, as its options choose them."""

import copy
import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import torch

from setadam_conformance.protocol import Capabilities, LayerState, Native, NumPyArray
from setadam_torch import SETAdam, _conformance_ranks
from setadam_torch._fused import why_not

_DTYPES = ("float64", "float32", "bfloat16", "float16")
_RELOADS = ("state_dict", "pickle", "deepcopy", "torch.save")


class TorchSingle:
    """SETAdam with foreach=False; the base of the other paths."""

    name = "torch:single"
    framework = "torch"
    capabilities = Capabilities(dtypes=_DTYPES, devices=("cpu", "cuda"), in_place=True, reloads=_RELOADS)
    _foreach: bool | None = False
    _fused: bool | None = False

    def __init__(self, device: str = "cpu") -> None:
        if device not in self.capabilities.devices or (device == "cuda" and not torch.cuda.is_available()):
            raise RuntimeError(f"{self.name} has no device {device!r}")
        self._device = torch.device(device)

    def from_numpy(self, x: NumPyArray) -> Native:
        x = np.array(x, order="K")
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
        optimizer = self._optimizer(params, hp, layer_axes)
        _put(optimizer, params, grads, states)
        optimizer.step()
        return list(params), _states(optimizer, params)

    def reload(
        self, how: str, params: Sequence[Native], states: Sequence[LayerState], hp: Mapping[str, Any]
    ) -> list[LayerState]:
        axes = [None] * len(params)
        optimizer = self._optimizer(params, hp, axes)
        _put(optimizer, params, [None] * len(params), states)
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
                raise ValueError(f"how must be one of {_RELOADS}, got {how!r}")
            other = self._optimizer([p.clone() for p in params], hp, axes)
            other.load_state_dict(state_dict)
        return _states(other, [p for group in other.param_groups for p in group["params"]])

    def _optimizer(self, params: Sequence[Native], hp: Mapping[str, Any], layer_axes: Sequence[Any]) -> Any:
        options = dict(hp)
        if "beta1" in options or "beta2" in options:
            options["betas"] = (options.pop("beta1", 0.9), options.pop("beta2", 0.999))
        groups = [{"params": [p], "layer_axes": a} for p, a in zip(params, layer_axes, strict=True)]
        if len(set(layer_axes)) == 1:  # the layers of one group go through foreach together
            groups = [{"params": list(params), "layer_axes": layer_axes[0]}]
        return SETAdam(groups, foreach=self._foreach, fused=self._fused, **options)


class TorchForeach(TorchSingle):
    """SETAdam with foreach=True."""

    name = "torch:foreach"
    _foreach = True


class TorchFused(TorchSingle):
    """SETAdam with fused=True."""

    name = "torch:fused"
    _foreach = None
    _fused = True

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        if (reason := why_not(device, torch.float32)) is not None:
            raise ImportError(reason)


class TorchDefault(TorchSingle):
    """SETAdam as users make it: the kernel or blocks on the CPU, foreach elsewhere; and DTensors."""

    name = "torch:default"
    capabilities = replace(TorchSingle.capabilities, layouts=_conformance_ranks.LAYOUTS)
    _foreach = None
    _fused = None

    def step_sharded(
        self,
        layout: str,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        read, write = self.to_numpy, self.from_numpy
        sent = ([read(p) for p in params], [read(g) for g in grads], [_mapped(s, read) for s in states])
        new, after = _conformance_ranks.step_sharded(layout, *sent, dict(hp), list(layer_axes))
        return [write(p) for p in new], [_mapped(s, write) for s in after]


class TorchBlocks(TorchSingle):
    """SETAdam with fused=False: what the default is on a CPU without Numba."""

    name = "torch:blocks"
    _foreach = None


class TorchCompiled(TorchSingle):
    """opt.step under torch.compile. Each kind of call (shapes, dtypes, hyperparameters) has an optimizer with
    a graph and tensors of its own, which serve all calls of that kind.
    """

    name = "torch:compiled"
    capabilities = Capabilities(
        dtypes=_DTYPES,
        devices=("cpu", "cuda"),
        recomputes_moments=True,
        traced_t=True,
        compiles=True,
        cost=20,  # seconds a graph
        in_place=True,
        reloads=_RELOADS,
    )
    _foreach = True
    _most_graphs = 100

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self._graphs: dict[str, _Graph] = {}

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        shapes = [(tuple(x.shape), x.stride(), x.dtype) for x in (*params, *grads)]
        key = repr((shapes, sorted(hp.items()), list(layer_axes)))
        if key not in self._graphs:
            if len(self._graphs) >= self._most_graphs:
                torch.compiler.reset()
                self._graphs.clear()
            own = [p.clone() for p in params]
            optimizer = self._optimizer(own, hp, layer_axes)
            _put(optimizer, own, [g.clone() for g in grads], _cloned(states))
            _check(optimizer)
            self._graphs[key] = _Graph(own, optimizer, torch.compile(optimizer.step, fullgraph=True))
        graph = self._graphs[key]
        entries = [graph.optimizer.state[p] for p in graph.params]
        for p, own, g, s, entry in zip(params, graph.params, grads, states, entries, strict=True):
            own.copy_(p)
            own.grad.copy_(g)
            entry["step"].fill_(s.t)
            _real(entry["exp_avg"]).copy_(s.m)
            _real(entry["exp_avg_sq"]).copy_(s.v)
        with torch._dynamo.config.patch(
            recompile_limit=self._most_graphs + 1, accumulated_recompile_limit=self._most_graphs + 1
        ):
            graph.step()
        new = _states(graph.optimizer, graph.params)
        for p, own, s, n in zip(params, graph.params, states, new, strict=True):
            p.copy_(own)
            s.m.copy_(n.m)
            s.v.copy_(n.v)
        return list(params), [LayerState(s.m, s.v, n.t) for s, n in zip(states, new, strict=True)]


class _Graph(NamedTuple):
    params: list[Native]
    optimizer: Any
    step: Any


def _check(optimizer: Any) -> None:
    """What a compiled step checks when it is traced, without the cost of tracing what is refused."""
    for group in optimizer.param_groups:
        optimizer._init_group(group, [], [], [], [], [])


def _real(x: Native) -> Native:
    return torch.view_as_real(x) if x.is_complex() else x


def _mapped(state: LayerState, convert: Any) -> LayerState:
    return LayerState(convert(state.m), convert(state.v), state.t)


def _cloned(states: Sequence[LayerState]) -> list[LayerState]:
    return [LayerState(s.m.clone(), s.v.clone(), s.t) for s in states]


def _put(optimizer: Any, params: Sequence[Native], grads: Sequence[Native], states: Sequence[LayerState]) -> None:
    """Make the given tensors the optimizer's own gradients and state."""
    for param, grad, state in zip(params, grads, states, strict=True):
        param.grad = grad
        m, v = (torch.view_as_complex(x) if param.is_complex() else x for x in (state.m, state.v))
        step = torch.tensor(float(state.t), dtype=torch.float64)
        optimizer.state[param] = {"step": step, "exp_avg": m, "exp_avg_sq": v}


def _states(optimizer: Any, params: Sequence[Native]) -> list[LayerState]:
    entries = [optimizer.state[p] for p in params]
    return [LayerState(_real(s["exp_avg"]), _real(s["exp_avg_sq"]), int(s["step"])) for s in entries]
