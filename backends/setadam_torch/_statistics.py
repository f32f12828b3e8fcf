"""Statistics of a layer's stepsizes, from the state and with the specification's own functions."""

from typing import Any

import torch

from setadam_core.spec import bias_correction, down_scaling, down_translate, embed_epsilon
from setadam_torch._layers import Group, Tensor, hyperparameters, layer_of, real

NAMES = ("gamma", "w_min", "stepsize_min", "stepsize_mean", "stepsize_std", "stepsize_max")


def of_param(param: Tensor, state: dict[str, Any], group: Group) -> dict[str, Any]:
    """γ, min w, and min, mean, std, max of 1/w̃ of a parameter; one value a layer."""
    with torch.no_grad():
        hp, layer = hyperparameters(group), layer_of(param, group["layer_axes"])
        v, t = real(state["exp_avg_sq"]), int(state["step"])
        gamma = down_scaling(v, layer, hp.cos_power)
        w = embed_epsilon(gamma * v / bias_correction(hp.beta2, t, layer), hp.eps, layer, hp)
        w_min = layer.min(w)
        stepsize = 1 / down_translate(w, w_min, hp.tau)
        mean = layer.sum(stepsize) / layer.size
        std = (layer.sum((stepsize - mean) ** 2) / layer.size).sqrt()
        values = (gamma, w_min, layer.min(stepsize), mean, std, layer.max(stepsize))
    return named(values, gamma.shape, layer.axes)


def named(values: tuple[Tensor, ...], kept: tuple[int, ...], axes: tuple[int, ...]) -> dict[str, Any]:
    """The statistics by name, each of a shape with the layer's axes kept as 1: without these axes, and a
    float where that leaves a single value.
    """
    shape = [n for axis, n in enumerate(kept) if axis not in axes]
    plain = (x.reshape(shape) if shape else x.item() for x in values)
    return dict(zip(NAMES, plain, strict=True))
