"""SETAdam under torch.compile."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from setadam_conformance.protocol import Capabilities, LayerState, Native
from setadam_torch.checks.tensors import real
from setadam_torch.conformance.adapters import DTYPES, RELOADS, TorchSingle, collected, put, states_of


class TorchCompiled(TorchSingle):
    """opt.step under torch.compile. Each kind of call (shapes, dtypes, hyperparameters) has an optimizer with
    a graph and tensors of its own, which serve all calls of that kind.
    """

    name = "torch:compiled"
    capabilities = Capabilities(
        dtypes=DTYPES,
        devices=("cpu", "cuda"),
        recomputes_moments=True,
        traced_t=True,
        compiles=True,
        cost=20,  # seconds a graph
        in_place=True,
        reloads=RELOADS,
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
            optimizer = self.optimizer(own, hp, layer_axes)
            put(optimizer, own, [g.clone() for g in grads], _cloned(states))
            collected(optimizer)  # its checks, without the cost of tracing what they refuse
            self._graphs[key] = _Graph(own, optimizer, torch.compile(optimizer.step, fullgraph=True))
        graph = self._graphs[key]
        entries = [graph.optimizer.state[p] for p in graph.params]
        for p, own, g, s, entry in zip(params, graph.params, grads, states, entries, strict=True):
            own.copy_(p)
            own.grad.copy_(g)
            entry["step"].fill_(s.t)
            real(entry["exp_avg"]).copy_(s.m)
            real(entry["exp_avg_sq"]).copy_(s.v)
        with torch._dynamo.config.patch(
            recompile_limit=self._most_graphs + 1, accumulated_recompile_limit=self._most_graphs + 1
        ):
            graph.step()
        new = states_of(graph.optimizer, graph.params)
        for p, own, s, n in zip(params, graph.params, states, new, strict=True):
            p.copy_(own)
            s.m.copy_(n.m)
            s.v.copy_(n.v)
        return list(params), [LayerState(s.m, s.v, n.t) for s, n in zip(states, new, strict=True)]


class _Graph(NamedTuple):
    params: list[Native]
    optimizer: Any
    step: Any


def _cloned(states: Sequence[LayerState]) -> list[LayerState]:
    return [LayerState(s.m.clone(), s.v.clone(), s.t) for s in states]
