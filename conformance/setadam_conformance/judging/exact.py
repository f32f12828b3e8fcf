"""A second oracle, written independently of the first: the paper's formulas, coordinate by coordinate.

It uses mpmath at 300 bits and Python loops, and no arrays. It is slow, and unlikely to share a mistake with the
first oracle. It has no bound. The first oracle and the test vectors are checked against it.
"""

import itertools
from typing import Any, NamedTuple

import mpmath
import numpy as np

from setadam_conformance.cases.case import Case, LayerCase, real_view
from setadam_conformance.protocol import Capabilities

context = mpmath.MPContext()
context.prec = 300
Number = Any


class Step(NamedTuple):
    """mₜ, vₜ and θₜ as flat lists of mpmath numbers, in the C order of the layer's real view."""

    m: list[Number]
    v: list[Number]
    theta: list[Number]


def exact_step(case: Case, layer: LayerCase, claims: Capabilities | None = None) -> Step:
    """One step of one layer in exact arithmetic (to 300 bits).

    claims: where they change the formulas (ε, the moments that the state holds, hyperparameters in float32), the step
    is theirs.
    """
    claims = claims or Capabilities(dtypes=(case.dtype,))
    mpf, hp = context.mpf, {k: context.mpf(float(x)) for k, x in case.hp.items()}
    hp |= {k: context.mpf(float(np.float32(case.hp[k]))) for k in claims.float32_scalars}
    theta = _numbers(real_view(layer.param))
    grad = _numbers(real_view(layer.grad))
    t = case.t + 1

    m, v = [], []
    for p, g, m_old, v_old in zip(theta, grad, _numbers(layer.m), _numbers(layer.v), strict=True):
        if case.hp["maximize"]:
            g = -g
        if not case.hp["decoupled_weight_decay"]:
            g = g + hp["weight_decay"] * p
        if claims.corrected_moments:  # the state before step t is divided by 1-β^(t-1)
            m_old, v_old = m_old * (1 - hp["beta1"] ** (t - 1)), v_old * (1 - hp["beta2"] ** (t - 1))
        m.append(hp["beta1"] * m_old + (1 - hp["beta1"]) * g)
        v.append(hp["beta2"] * v_old + (1 - hp["beta2"]) * g**2)

    new = list(theta)
    for members in _layers(layer):
        d = len(members)
        total, squares = sum(v[i] for i in members), sum(v[i] ** 2 for i in members)
        cosine = total / (context.sqrt(d) * context.sqrt(squares)) if squares else mpf(1)
        gamma = cosine ** hp["cos_power"] if case.hp["cos_power"] else mpf(1)
        w = []
        for i in members:
            correction = 1 - hp["beta2"] ** t
            w.append(_embedded(gamma * v[i], correction, hp["eps"], bool(case.hp["eps_inside_sqrt"]), claims.epsilon))
        smallest = min(w)
        for i, w_i in zip(members, w, strict=True):
            update = hp["lr"] / (1 - hp["beta1"] ** t) * m[i] / (w_i - hp["tau"] * smallest)
            kept = 1 - hp["lr"] * hp["weight_decay"] if case.hp["decoupled_weight_decay"] else 1
            new[i] = kept * theta[i] - update
    if claims.corrected_moments:
        m, v = [x / (1 - hp["beta1"] ** t) for x in m], [x / (1 - hp["beta2"] ** t) for x in v]
    return Step(m, v, new)


def _embedded(v: Number, correction: Number, eps: Number, inside: bool, epsilon: str) -> Number:
    """The denominator w of one coordinate, from γv and 1-β₂ᵗ."""
    if epsilon == "both":
        return context.sqrt(v / correction + eps) + eps
    if epsilon == "uncorrected":
        return (context.sqrt(v + eps) if inside else context.sqrt(v) + eps) / context.sqrt(correction)
    return context.sqrt(v / correction + eps) if inside else context.sqrt(v / correction) + eps


def _numbers(x: np.ndarray[Any, Any]) -> list[Number]:
    return [context.mpf(float(entry)) for entry in x.ravel()]


def _layers(layer: LayerCase) -> list[list[int]]:
    """For each layer of the array, the flat indices of its coordinates."""
    shape = layer.m.shape
    index = np.arange(layer.m.size).reshape(shape)
    if layer.m.size == 0:
        return []
    fixed = [axis for axis in range(len(shape)) if axis not in layer.real_axes]
    members = []
    for where in itertools.product(*(range(shape[axis]) for axis in fixed)):
        pick: list[Any] = [slice(None)] * len(shape)
        for axis, i in zip(fixed, where, strict=True):
            pick[axis] = i
        members.append([int(i) for i in np.ravel(index[tuple(pick)])])
    return members
