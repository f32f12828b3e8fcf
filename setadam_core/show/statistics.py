"""Statistics of the adaptive stepsizes of a layer, with the specification's own functions."""

from collections.abc import Sequence
from typing import Any

from array_api_compat import array_namespace

from setadam_core.hyperparameters import Hyperparameters
from setadam_core.layers import Array, Layer
from setadam_core.parts import denominator
from setadam_core.plain import check_plain
from setadam_core.spec import bias_correction, down_scaling, embed_epsilon

NAMES = ("gamma", "w_min", "floor_share", "stepsize_min", "stepsize_mean", "stepsize_std", "stepsize_max")
ON_FLOOR = 2**0.5  # a coordinate is on the floor if its w is at most this many times √ε


def of_layers(v: Array, t: Any, layer: Layer, hp: Hyperparameters) -> tuple[Array, ...]:
    """The values in the order of NAMES, given the second moment v after t ≥ 1 steps. The layer's axes are kept as 1.

    γ in [0, 1]; min w, in units of the gradient; the share of coordinates `on_floor`; and the smallest value, the mean,
    the standard deviation (over the layer's d coordinates) and the largest value of 1/w̃, without η/(1-β₁ᵗ). In the
    compute dtype; NaN in a layer whose v is not finite.
    """
    gamma = down_scaling(v, layer, hp.cos_power)
    w_shifted, w_min = denominator(v, gamma, layer.min(v), t, layer, hp)
    share = layer.sum(on_floor(v, gamma, t, layer, hp)) / layer.size + (gamma - gamma)  # NaN if γ is
    stepsize = 1 / w_shifted
    mean = layer.sum(stepsize) / layer.size
    std = layer.xp.sqrt(layer.sum((stepsize - mean) ** 2) / layer.size)
    return gamma, w_min, share, layer.min(stepsize), mean, std, layer.max(stepsize)


def on_floor(v: Array, gamma: Array, t: Any, layer: Layer, hp: Hyperparameters) -> Array:
    """1 where w ≤ √2 √ε, which is where γv̂ ≤ ε, and 0 elsewhere, in the dtype of v. Such a coordinate has nearly the
    stepsize that v = 0 would give it. With `eps_inside_sqrt=False`, where ε itself is the floor: w ≤ √2 ε.
    """
    v_hat, zero = gamma * v / bias_correction(hp.beta2, t, layer), layer.xp.zeros_like(gamma)
    w, floor = (embed_epsilon(x, layer.coefficient(hp.eps), layer, hp) for x in (v_hat, zero))
    return layer.xp.astype(w <= ON_FLOOR * floor, v.dtype)


def named(values: Sequence[Array], kept: Sequence[int], axes: Sequence[int]) -> dict[str, Any]:
    """The values of `of_layers` by name, without the layer's axes: Python floats, or with several layers arrays of one
    value for each layer. kept: the shape in which these axes are 1.
    """
    shape = tuple(n for axis, n in enumerate(kept) if axis not in axes)
    plain = (array_namespace(x).reshape(x, shape) if shape else float(x.reshape(-1)[0]) for x in values)
    return dict(zip(NAMES, plain, strict=True))


def layer_statistics(v: Array, t: int, layer: Layer, hp: Hyperparameters) -> dict[str, Any]:
    """The statistics of a parameter by name: `of_layers`, then `named`."""
    check_plain("exp_avg_sq", v)
    values = of_layers(v, t, layer, hp)
    return named(values, values[0].shape, layer.axes)
