"""Gradients of real training, recorded by `conformance/record_gradients.py`. They show what random numbers miss.

The recordings are an MLP over 200 steps, and a few steps each of a convolution, an embedding most of whose rows get
exact zeros, self-attention, and layer norm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from setadam_conformance.cases.case import DEFAULTS, Case, LayerCase, fresh_layer
from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.protocol import Adapter, LayerState, NumPyArray
from setadam_core import Hyperparameters, State, step

FILE = Path(__file__).parent / "recorded.npz"
SETTINGS = {
    k: x if isinstance(x, bool) else float(cast("float", x)) for k, x in DEFAULTS.items()
}  # the hyperparameters of the recording


@dataclass(frozen=True)
class Recording:
    """The training of one model: parameters before the first step, and gradients step by step, in float32.

    layers: the layers' names. params: one array for each layer, in the same order. grads_by_step: for each step, one
    gradient for each layer, of the parameter's shape.
    """

    name: str
    layers: tuple[str, ...]
    params: tuple[NumPyArray, ...]
    grads_by_step: tuple[tuple[NumPyArray, ...], ...]


class Followed(NamedTuple):
    """One step of a backend: its inputs and its results, as NumPy arrays."""

    case: Case
    params: list[NumPyArray]
    states: list[LayerState]


@cache
def recordings() -> dict[str, Recording]:
    """All recordings by name: "mlp", "convolution", "embedding", "attention", "layer_norm"."""
    with np.load(FILE, allow_pickle=False) as arrays:
        layers: dict[str, list[str]] = {}
        for key in arrays.files:
            name, layer, what = key.split("/")
            if what == "start":
                layers.setdefault(name, []).append(layer)
        return {
            name: Recording(
                name,
                tuple(own),
                tuple(_frozen(arrays[f"{name}/{layer}/start"]) for layer in own),
                tuple(zip(*(_frozen(arrays[f"{name}/{layer}/grads"]) for layer in own), strict=True)),
            )
            for name, own in layers.items()
        }


def cases(recording: Recording, dtype: str, hp: dict[str, Any] | None = None) -> Iterator[Case]:
    """Each step as a case. Its state is the one that the specification reaches under NumPy.

    Parameters and gradients are rounded to the dtype. hp: None for the hyperparameters of the recording.
    """
    settings = SETTINGS if hp is None else hp
    checked = Hyperparameters(**settings)
    case = _first(recording, dtype, settings)
    for t, grads in enumerate(recording.grads_by_step):
        case = _with_grads(case, grads, t)
        yield case
        new = [step(x.param, x.grad, State(x.m, x.v, t), checked) for x in case.layers]
        case = _moved(case, [p for p, _ in new], [LayerState(s.m, s.v, s.t) for _, s in new])


def follow(adapter: Adapter, recording: Recording, dtype: str, hp: dict[str, Any] | None = None) -> Iterator[Followed]:
    """Lockstep: each step as a case that starts from the backend's own state, with the backend's result.

    All layers go in one call, or one by one if the backend takes a single layer.
    """
    settings = SETTINGS if hp is None else hp
    case = _first(recording, dtype, settings)
    for t, grads in enumerate(recording.grads_by_step):
        case = _with_grads(case, grads, t)
        together = "many" in adapter.capabilities.options
        calls = [case.layers] if together else [(layer,) for layer in case.layers]
        params: list[NumPyArray] = []
        states: list[LayerState] = []
        for layers in calls:
            new_params, new_states = _call(adapter, layers, t, settings)
            params.extend(new_params)
            states.extend(new_states)
        yield Followed(case, params, states)
        case = _moved(case, params, states)


def _call(
    adapter: Adapter, layers: tuple[LayerCase, ...], t: int, hp: dict[str, Any]
) -> tuple[list[NumPyArray], list[LayerState]]:
    params, states = adapter.step(
        [adapter.from_numpy(layer.param) for layer in layers],
        [adapter.from_numpy(layer.grad) for layer in layers],
        [LayerState(adapter.from_numpy(layer.m), adapter.from_numpy(layer.v), t) for layer in layers],
        dict(hp),
        [None] * len(layers),
    )
    # Copied, because an in-place implementation may overwrite them in its next step.
    read = [LayerState(_copy(adapter, s[0]), _copy(adapter, s[1]), int(s[2])) for s in states]
    return [_copy(adapter, p) for p in params], read


def _copy(adapter: Adapter, x: Any) -> NumPyArray:
    return np.array(adapter.to_numpy(x))


def _first(recording: Recording, dtype: str, hp: dict[str, Any]) -> Case:
    numpy_dtype = FORMATS[dtype].numpy
    layers = (fresh_layer(p.astype(numpy_dtype), np.zeros(p.shape, numpy_dtype)) for p in recording.params)
    return Case(dtype, tuple(layers), 0, hp)


def _with_grads(case: Case, grads: tuple[NumPyArray, ...], t: int) -> Case:
    layers = tuple(
        LayerCase(layer.param, g.astype(layer.param.dtype), layer.m, layer.v)
        for layer, g in zip(case.layers, grads, strict=True)
    )
    return Case(case.dtype, layers, t, case.hp)


def _moved(case: Case, params: list[NumPyArray], states: list[LayerState]) -> Case:
    layers = tuple(LayerCase(p, layer.grad, s.m, s.v) for layer, p, s in zip(case.layers, params, states, strict=True))
    return Case(case.dtype, layers, case.t + 1, case.hp)


def _frozen(x: NumPyArray) -> NumPyArray:
    x.setflags(write=False)  # the recordings are shared
    return x
