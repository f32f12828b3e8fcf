"""`launches.step_layers` on any device: for the conformance kit, and under GradScaler."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from setadam_conformance.protocol import LayerState, Native
from setadam_torch.conformance.adapters import TorchSingle, collected, put, states_of
from setadam_torch.paths.triton import launches


class TritonSteps(TorchSingle):
    """One call for all layers with the same layer_axes. Step counts lie on the device.

    Kernels round to nearest: stochastic rounding is around them, and is the optimizer's (`setadam_torch.rounding`).
    """

    name = "torch:triton"
    capabilities = replace(TorchSingle.capabilities, stochastic_rounding="none", reloads=())

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
        for param in params:
            optimizer.state[param]["step"] = optimizer.state[param]["step"].to(self._device)
        for group, columns in collected(optimizer):  # all is checked before anything is updated
            launches.step_layers(group, [[x.detach() for x in xs] for xs in columns])
        return list(params), states_of(optimizer, params)


class Scaled(torch.optim.Optimizer):
    """A user of step_layers to which torch.amp.GradScaler hands grad_scale and found_inf."""

    _step_supports_amp_scaling = True

    def __init__(self, group, columns):
        self.group, self.columns = group, columns
        super().__init__(columns[0], {})

    def step(self):
        params = self.columns[0]
        columns = params, [p.grad for p in params], *self.columns[2:]
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        with torch.no_grad():
            launches.step_layers(self.group, columns, grad_scale=scale, found_inf=found)


def check_grad_scaler(group, columns):
    """A step with finite gradients is that of the unscaled ones; one with an overflow changes nothing."""
    params, grads, *state = columns
    expected = [[x.clone() for x in xs] for xs in columns]
    scaler = torch.amp.GradScaler(params[0].device.type, init_scale=1024.0)
    optimizer = Scaled(group, columns)
    scaler.scale(torch.zeros((), device=params[0].device))  # makes the scale
    for p, g in zip(params, grads, strict=True):
        p.grad = 1024 * g
    scaler.step(optimizer)
    scaler.update()
    launches.step_layers(group, expected)
    for _ in range(2):
        for xs, ys in zip([params, *state], [expected[0], *expected[2:]], strict=True):
            assert all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))
        assert all(torch.equal(p.grad, g) for p, g in zip(params[:1], expected[1], strict=False))
        if scaler.get_scale() == 1024:
            params[1].grad[3] = math.inf
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 512
