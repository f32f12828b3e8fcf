"""SET-Adam, one step of one layer: the specification (arXiv 2302.01029, algorithm 1).

Adam, with three operations on the second moment before it divides the update, layer by layer:

    mₜ = β₁ mₜ₋₁ + (1-β₁) gₜ                       first moment
    vₜ = β₂ vₜ₋₁ + (1-β₂) gₜ²                      second moment, stored as is
    γₜ = cos²∠(vₜ, 1) = (Σ vₜ)² / (d Σ vₜ²)        S  down-scaling
    wₜ = √(γₜ vₜ / (1-β₂ᵗ) + ε)                    E  ε-embedding
    w̃ₜ = wₜ - τ min(wₜ)                            T  down-translating
    θₜ = θₜ₋₁ - η/(1-β₁ᵗ) mₜ / w̃ₜ                  update

`trace` is that list in code, each line a function of this file. With S and T off (`cos_power=0,
tau=0`) it is Adam with ε under the root. Arrays of any Array-API namespace; nothing is written.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from array_api_compat import device

from setadam_core.hyperparameters import Hyperparameters, Scalar, is_array_scalar
from setadam_core.layers import Array, Layer, as_array, check_layer, compute_dtype_name, dtype_name, fields
from setadam_core.plain import namespace
from setadam_core.rounding import Rounding


class State(NamedTuple):
    """The moments after t steps: m and v real, in the compute dtype (float32 for 16-bit parameters),
    of the parameter's shape s, or s + (2,) if it is complex; t an int or a 0-d array.
    """

    m: Array
    v: Array
    t: Any


class Trace(NamedTuple):
    """Every intermediate of one step. One value a coordinate, but for gamma and w_min: one a layer,
    with the layer's axes kept as 1. In the compute dtype, complex layers as s + (2,), but for param.
    """

    g: Array  # the gradient after maximize and coupled weight decay
    m: Array
    v: Array
    gamma: Array  # γ
    v_scaled: Array  # γ v
    w: Array
    w_min: Array
    w_shifted: Array  # w̃
    update: Array  # what is taken off θ
    param: Array  # θₜ, in the parameter's own dtype
    t: Any

    @property
    def stepsize(self) -> Array:
        """1 / w̃, the adaptive stepsize of the paper's figures: η/(1-β₁ᵗ) is not in it."""
        return 1 / self.w_shifted


def init(param: Array) -> State:
    """The state before the first step: zero moments, t = 0. TypeError if param is not floating-point."""
    xp, name = namespace({"param": param}), compute_dtype_name(param)
    shape = (*param.shape, 2) if dtype_name(param).startswith("complex") else param.shape
    m, v = (xp.zeros(shape, dtype=getattr(xp, name), device=device(param)) for _ in "mv")
    return State(m, v, 0)


def step(
    param: Array, grad: Array, state: State, hp: Hyperparameters, *,
    layer_axes: Sequence[int] | None = None, rounding: Rounding | None = None,
) -> tuple[Array, State]:  # fmt: skip
    """One step: the new parameter and state, as new arrays. See `trace`, of which these are a part."""
    now = trace(param, grad, state, hp, layer_axes=layer_axes, rounding=rounding)
    return now.param, State(now.m, now.v, now.t)


def trace(
    param: Array, grad: Array, state: State, hp: Hyperparameters, *,
    layer_axes: Sequence[int] | None = None, rounding: Rounding | None = None,
) -> Trace:  # fmt: skip
    """One step with every intermediate: the algorithm, line by line.

    param and grad: any shape, one dtype (float16 to complex128) and device. layer_axes: the axes that make one layer,
    default all; (1, 2) for an array that stacks matrices along its first axis. rounding: the seed and the
    place of a stochastic rounding, if a 16-bit parameter is to be rounded so at the end. An all-zero v has
    γ = 1 (any γ gives the same step), an empty array returns as it came, NaN or ±Inf makes its whole layer NaN.
    Raises as `check_layer`.
    """
    layer = check_layer(param, grad, *fields(state), hp, layer_axes)
    c, t = layer.coefficient, state.t + 1
    theta, g = layer.real(param), layer.real(grad)

    g = -g if hp.maximize else g
    if hp.decays and not hp.decoupled_weight_decay:
        g = g + c(hp.weight_decay) * theta
    m = c(hp.beta1) * state.m + c(1 - hp.beta1) * g
    v = c(hp.beta2) * state.v + c(1 - hp.beta2) * (g * g)
    gamma = down_scaling(v, layer, hp.cos_power)
    v_scaled = gamma * v
    w = embed_epsilon(v_scaled / bias_correction(hp.beta2, t, layer), c(hp.eps), layer, hp)
    w_min = layer.min(w)
    w_shifted = down_translate(w, w_min, c(hp.tau))
    update = c(hp.lr / bias_correction(hp.beta1, t, layer)) * m / w_shifted
    if hp.decays and hp.decoupled_weight_decay:
        theta = c(1 - hp.lr * hp.weight_decay) * theta
    param = layer.unreal(theta - update, rounding, t)
    arrays = (g, m, v, gamma, v_scaled, w, w_min, w_shifted, update, param)
    return Trace._make([*map(as_array, arrays), t])


def bias_correction(beta: Scalar, t: Any, layer: Layer) -> Scalar:
    """1 - βᵗ as -expm1(t log β): 1 - float32(0.999)ᵗ would be off by 1.3e-5 of itself at t = 1."""
    if is_array_scalar(beta):
        return layer.coefficient(-layer.xp.expm1(layer.coefficient(t) * layer.xp.log(beta)))
    if beta == 0:
        return 1.0
    if is_array_scalar(t):
        return -layer.xp.expm1(layer.coefficient(t) * math.log(beta))
    return -math.expm1(t * math.log(beta))


def down_scaling(v: Array, layer: Layer, power: float) -> Array:
    """S: γ = cosⁿ∠(v, 1). Taken of v / max v, so that it depends on v's direction alone over the whole
    range of the dtype; rounding can carry it past 1, hence the clamp. 1 where v is all zero.
    """
    xp, largest = layer.xp, layer.max(v)
    one = xp.ones_like(largest)
    if power == 0 or layer.size == 0:
        return one
    r = xp.where(largest == 0, one, v) / xp.where(largest == 0, one, largest)
    s1, s2 = layer.sum(r), layer.sum(r * r)
    cos2 = xp.minimum((s1 / layer.size) * (s1 / s2), one)
    return cos2 if power == 2 else cos2 ** (power / 2)


def embed_epsilon(v_hat: Array, eps: Scalar, layer: Layer, hp: Hyperparameters) -> Array:
    """E: w = √(v̂ + ε), never below √ε; √v̂ + ε in the ablation."""
    return layer.xp.sqrt(v_hat + eps) if hp.eps_inside_sqrt else layer.xp.sqrt(v_hat) + eps


def down_translate(w: Array, w_min: Array, tau: Scalar) -> Array:
    """T: w̃ = w - τ min w, positive since τ < 1."""
    return w - tau * w_min
