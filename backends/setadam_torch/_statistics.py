"""Statistics of a layer's stepsizes, from the state and with the specification's own functions."""

from typing import Any

import torch

from setadam_core.spec import bias_correction, down_scaling, down_translate, embed_epsilon
from setadam_torch._layers import Group, Tensor, hyperparameters, layer_of, real


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
        statistics = {
            "gamma": gamma,
            "w_min": w_min,
            "stepsize_min": layer.min(stepsize),
            "stepsize_mean": mean,
            "stepsize_std": (layer.sum((stepsize - mean) ** 2) / layer.size).sqrt(),
            "stepsize_max": layer.max(stepsize),
        }
    return {name: _plain(x, layer.axes) for name, x in statistics.items()}


def _plain(x: Tensor, axes: tuple[int, ...]) -> Any:
    """Without the layer's axes; a float where that leaves a single value."""
    x = x.reshape([n for axis, n in enumerate(x.shape) if axis not in axes])
    return x.item() if x.ndim == 0 else x
