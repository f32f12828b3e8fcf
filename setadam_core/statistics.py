"""Statistics of the adaptive stepsizes of a layer, with the specification's own functions."""

from typing import Any

from array_api_compat import array_namespace

from setadam_core.hyperparameters import Hyperparameters
from setadam_core.layers import Array, Layer
from setadam_core.spec import bias_correction, down_scaling, down_translate, embed_epsilon


def layer_statistics(v: Array, t: int, layer: Layer, hp: Hyperparameters) -> dict[str, Any]:
    """What the three operations make of the second moment v after t ≥ 1 steps.

    Returns
    -------
    dict : ``gamma`` (γ in [0, 1]), ``w_min`` (min w, in units of the gradient), and ``stepsize_min``,
        ``stepsize_mean``, ``stepsize_std``, ``stepsize_max`` of 1/w̃ (η/(1-β1ᵗ) is not in it). Python floats;
        with several layers in v, arrays of one value a layer.
    """
    gamma = down_scaling(v, layer, hp.cos_power)
    w = embed_epsilon(gamma * v / bias_correction(hp.beta2, t, layer), hp.eps, layer, hp)
    w_min = layer.min(w)
    stepsize = 1 / down_translate(w, w_min, hp.tau)
    mean = layer.sum(stepsize) / layer.size
    std = array_namespace(v).sqrt(layer.sum((stepsize - mean) ** 2) / layer.size)
    statistics = {
        "gamma": gamma,
        "w_min": w_min,
        "stepsize_min": layer.min(stepsize),
        "stepsize_mean": mean,
        "stepsize_std": std,
        "stepsize_max": layer.max(stepsize),
    }
    return {name: _plain(x, layer.axes) for name, x in statistics.items()}


def _plain(x: Array, axes: tuple[int, ...]) -> Any:
    """Without the layer's axes; a float where that leaves a single value."""
    kept = [n for axis, n in enumerate(x.shape) if axis not in axes]
    return array_namespace(x).reshape(x, tuple(kept)) if kept else float(x.reshape(-1)[0])
