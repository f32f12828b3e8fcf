"""The specification itself as a backend, under each namespace: what backends are compared with must
pass first. One adapter a namespace, and one for JAX's compiler."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from setadam_conformance.protocol import Capabilities, LayerState, Native, NumPyArray
from setadam_core import Hyperparameters, State, step

_ALL_DTYPES = ("float64", "float32", "bfloat16", "float16")


class NumPySpec:
    """setadam_core under NumPy; the base of the other namespaces."""

    name = "spec:numpy"
    framework = "numpy"
    capabilities = Capabilities(dtypes=_ALL_DTYPES)

    def __init__(self, device: str = "cpu") -> None:
        if device not in self.capabilities.devices:
            raise RuntimeError(f"{self.name} has no device {device!r}")

    def from_numpy(self, x: NumPyArray) -> Native:
        return x.copy(order="K")

    def to_numpy(self, x: Native) -> NumPyArray:
        return np.asarray(x)

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        checked = Hyperparameters(**hp)
        if not len(params) == len(grads) == len(states) == len(layer_axes):
            raise ValueError("params, grads, states and layer_axes must have one entry for each layer")
        new = [
            self._step(p, g, State(*s), checked, axes)
            for p, g, s, axes in zip(params, grads, states, layer_axes, strict=True)
        ]
        return [p for p, _ in new], [LayerState(s.m, s.v, int(s.t)) for _, s in new]

    def _step(
        self, param: Native, grad: Native, state: State, hp: Hyperparameters, axes: tuple[int, ...] | None
    ) -> tuple[Native, State]:
        return step(param, grad, state, hp, layer_axes=axes)
