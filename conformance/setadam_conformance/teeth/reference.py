"""A plain NumPy SET-Adam from which the faults and the variants are made. It has one method for each line of the step,
so that a fault or a variant is an override of a line or two.

It is an implementation under test, not the specification: it computes in the working precision.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import expm1, log, prod
from typing import Any

import numpy as np

from setadam_conformance.cases.case import copied, real_view
from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.protocol import Capabilities, LayerState, NumPyArray
from setadam_core import Hyperparameters
from setadam_core.layers import check_layer, check_layer_axes

Rows = Any  # an array (layers, d): γ and the minimum are taken over each row


@dataclass
class Layer:
    """One array of the call, as rows in the compute dtype, and its inputs."""

    theta: Rows
    g: Rows
    m: Rows
    v: Rows
    t: int  # the number of this step, from 1
    hp: Hyperparameters
    axes: tuple[int, ...]  # of the real view
    given: tuple[NumPyArray, NumPyArray, LayerState]  # param, grad and state, unchanged
    call: list["Layer"] = field(default_factory=list)  # all layers of the call, this one among them

    @property
    def d(self) -> int:
        return int(self.v.shape[1])


class Reference:
    """The implementation, as an adapter. Methods take the layer first, then their operands."""

    name = "teeth:reference"
    framework = "teeth"
    capabilities = Capabilities(dtypes=tuple(FORMATS), reloads=("npz",))

    def __init__(self, device: str = "cpu") -> None:
        if device != "cpu":
            raise RuntimeError(f"{self.name} has no device {device!r}")
        self.memory: dict[Any, Any] = {}  # for faults that keep values between calls

    def from_numpy(self, x: NumPyArray) -> NumPyArray:
        return copied(x)

    def to_numpy(self, x: NumPyArray) -> NumPyArray:
        return np.asarray(x)

    def step(
        self,
        params: Sequence[NumPyArray],
        grads: Sequence[NumPyArray],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[NumPyArray], list[LayerState]]:
        with np.errstate(all="ignore"):
            checked = self.hyperparameters(hp)
            given = list(zip(params, grads, states, layer_axes, strict=True))
            for param, grad, state, axes in given:
                self.check(param, grad, state, checked, axes)
            layers = [self.load(*each[:3], checked, each[3]) for each in given]
            for c in layers:
                c.call = layers
            return self.step_all(layers)

    def reload(
        self, how: str, params: Sequence[NumPyArray], states: Sequence[LayerState], hp: Mapping[str, Any]
    ) -> list[LayerState]:
        back = []
        for state in states:
            file = io.BytesIO()
            np.savez(file, m=state.m, v=state.v, t=state.t)
            file.seek(0)
            with np.load(file) as stored:
                back.append(LayerState(stored["m"], stored["v"], int(stored["t"])))
        return back

    # Before and after the formulas.

    def hyperparameters(self, hp: Mapping[str, Any]) -> Hyperparameters:
        return Hyperparameters(**hp)

    def check(self, param: NumPyArray, grad: NumPyArray, state: LayerState, hp: Hyperparameters, axes: Any) -> None:
        check_layer(param, grad, *state, hp, axes)

    def load(self, param: NumPyArray, grad: NumPyArray, state: LayerState, hp: Hyperparameters, axes: Any) -> Layer:
        own = check_layer_axes(axes, param.ndim)
        own = (*own, param.ndim) if param.dtype.kind == "c" else own
        dtype = state.m.dtype
        theta, g = (rows(self.parts(x), own).astype(dtype) for x in (param, grad))
        m, v = rows(state.m, own).copy(), rows(state.v, own).copy()
        return Layer(theta, g, m, v, self.advance(state.t), hp, own, (param, grad, state))

    def parts(self, x: NumPyArray) -> NumPyArray:
        return real_view(x)

    def advance(self, t: int) -> int:
        return t + 1

    def step_all(self, layers: list[Layer]) -> tuple[list[NumPyArray], list[LayerState]]:
        done = [self.step_layer(c) for c in layers]
        return [param for param, _ in done], [state for _, state in done]

    def step_layer(self, c: Layer) -> tuple[NumPyArray, LayerState]:
        if c.v.size == 0:
            return c.given[0], c.given[2]._replace(t=c.t)
        g = self.gradient(c)
        m, v = self.moment1(c, g), self.moment2(c, g)
        shifted = self.translate(c, self.denominator(c, self.scale(c, v)))
        theta = self.subtract(c, self.decay(c, c.theta), self.update(c, m, shifted))
        return self.store(c, theta, m, v)

    def store(self, c: Layer, theta: Rows, m: Rows, v: Rows) -> tuple[NumPyArray, LayerState]:
        param, _, state = c.given
        shape, dtype = state.m.shape, state.m.dtype
        new, m, v = (unrows(x, shape, c.axes) for x in (theta, m, v))
        if param.dtype.kind == "c":
            new = np.ascontiguousarray(new.astype(param.real.dtype)).view(param.dtype)
        new = new.astype(param.dtype).reshape(param.shape)
        return new, LayerState(m.astype(dtype), v.astype(dtype), c.t)

    # The step, line by line.

    def gradient(self, c: Layer) -> Rows:
        g = -c.g if c.hp.maximize else c.g
        return g if c.hp.decoupled_weight_decay or not c.hp.weight_decay else g + c.hp.weight_decay * c.theta

    def moment1(self, c: Layer, g: Rows) -> Rows:
        return c.hp.beta1 * c.m + (1 - c.hp.beta1) * g

    def moment2(self, c: Layer, g: Rows) -> Rows:
        return c.hp.beta2 * c.v + (1 - c.hp.beta2) * (g * g)

    def scale(self, c: Layer, v: Rows) -> Rows:
        return self.gamma(c, v) * v

    def gamma(self, c: Layer, v: Rows) -> Rows:
        if c.hp.cos_power == 0:
            return np.ones_like(v[:, :1])
        peak = np.max(v, axis=1, keepdims=True)
        r = np.where(peak == 0, 1, v) / np.where(peak == 0, 1, peak)
        cos2 = np.minimum((self.sum(c, r) / c.d) * (self.sum(c, r) / self.sum(c, r * r)), 1)
        return cos2 if c.hp.cos_power == 2 else cos2 ** (c.hp.cos_power / 2)

    def sum(self, c: Layer, x: Rows) -> Rows:
        return np.sum(x, axis=1, keepdims=True, dtype=x.dtype)

    def bias1(self, c: Layer) -> float:
        return self.bias(c.hp.beta1, c.t)

    def bias2(self, c: Layer) -> float:
        return self.bias(c.hp.beta2, c.t)

    def bias(self, beta: float, t: int) -> float:
        return -expm1(t * log(beta)) if beta else 1.0

    def denominator(self, c: Layer, v_scaled: Rows) -> Rows:
        return self.embed(c, v_scaled / self.bias2(c))

    def embed(self, c: Layer, v_hat: Rows) -> Rows:
        return np.sqrt(v_hat + c.hp.eps) if c.hp.eps_inside_sqrt else np.sqrt(v_hat) + c.hp.eps

    def translate(self, c: Layer, w: Rows) -> Rows:
        return w - c.hp.tau * self.least(c, w)

    def least(self, c: Layer, w: Rows) -> Rows:
        return np.min(w, axis=1, keepdims=True)

    def update(self, c: Layer, m: Rows, shifted: Rows) -> Rows:
        return c.hp.lr / self.bias1(c) * m / shifted

    def decay(self, c: Layer, theta: Rows) -> Rows:
        shrinks = c.hp.decoupled_weight_decay and c.hp.weight_decay
        return (1 - c.hp.lr * c.hp.weight_decay) * theta if shrinks else theta

    def subtract(self, c: Layer, theta: Rows, update: Rows) -> Rows:
        return theta - update


def _order(ndim: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    return (*(axis for axis in range(ndim) if axis not in axes), *axes)


def rows(x: NumPyArray, axes: tuple[int, ...]) -> Rows:
    """An array as (layers, d), the layer's axes flattened together."""
    d = prod(x.shape[axis] for axis in axes)
    layers = prod(n for axis, n in enumerate(x.shape) if axis not in axes)
    return np.transpose(x, _order(x.ndim, axes)).reshape(layers, d)


def unrows(x: Rows, shape: tuple[int, ...], axes: tuple[int, ...]) -> NumPyArray:
    """The inverse of `rows` for an array of this shape."""
    order = _order(len(shape), axes)
    back = sorted(range(len(shape)), key=order.__getitem__)
    return np.transpose(x.reshape([shape[axis] for axis in order]), back)
