"""tinygrad's Adam and AdamW. Its state has powers of β, and no step count."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from setadam_conformance.adapters.published import adamw
from setadam_conformance.protocol import LayerState, Native, NumPyArray


class TinygradAdamW:
    """tinygrad.nn.optim.AdamW."""

    name = "tinygrad-adamw"
    framework = "tinygrad-adamw"
    capabilities = adamw(
        dtypes=("float32",),
        corrections="cancelling",
        options=frozenset({"decoupled_weight_decay", "many"}),
        compiles=True,
        cost=40,
        in_place=True,
    )

    def __init__(self, device: str = "cpu") -> None:
        if device != "cpu":
            raise RuntimeError(f"{self.name} is judged on the CPU")
        os.environ.setdefault("DEV", "CPU")
        from tinygrad import Context, Tensor, dtypes
        from tinygrad.nn import optim

        self._tensor, self._optim, self._float32, self._context = Tensor, optim, dtypes.float32, Context

    def from_numpy(self, x: NumPyArray) -> Native:
        return self._tensor(np.ascontiguousarray(x).reshape(x.shape)).contiguous().realize()

    def to_numpy(self, x: Native) -> NumPyArray:
        return np.asarray(x.numpy())

    def optimizer(self, params: list[Any], hp: Mapping[str, Any]) -> Any:
        """The library's optimizer for these hyperparameters."""
        betas = {"b1": hp["beta1"], "b2": hp["beta2"]}
        return self._optim.AdamW(params, lr=hp["lr"], eps=hp["eps"], weight_decay=hp["weight_decay"], **betas)

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        leaves = [p.contiguous().realize() for p in params]
        with self._context(TRAINING=1):
            optimizer = self.optimizer(leaves, hp)
            for i, (p, g, state) in enumerate(zip(leaves, grads, states, strict=True)):
                p.grad = g
                optimizer.m[i].assign(state.m).realize()
                optimizer.v[i].assign(state.v).realize()
            for power, beta in ((optimizer.b1_t, hp["beta1"]), (optimizer.b2_t, hp["beta2"])):
                power.assign(self._tensor([beta ** states[0].t], dtype=self._float32)).realize()
            optimizer.step()
        after = zip(optimizer.m, optimizer.v, strict=True)
        return leaves, [LayerState(m, v, state.t + 1) for (m, v), state in zip(after, states, strict=True)]


class TinygradAdam(TinygradAdamW):
    """tinygrad.nn.optim.Adam, which has no weight decay."""

    name = "tinygrad-adam"
    framework = "tinygrad-adam"
    capabilities = replace(TinygradAdamW.capabilities, options=frozenset({"many"}))

    def optimizer(self, params: list[Any], hp: Mapping[str, Any]) -> Any:
        return self._optim.Adam(params, lr=hp["lr"], b1=hp["beta1"], b2=hp["beta2"], eps=hp["eps"])
