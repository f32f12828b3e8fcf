"""Adam and AdamW, written as published optimizers write them: the correct variants that claims exist for.

Each is a few lines of `Reference` in another form, with the claims that it needs. The seeded faults of Adam in
`faults/adam.py` start from these.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from setadam_conformance.protocol import ADAM, ADAMW, LayerState, NumPyArray
from setadam_conformance.teeth.reference import Layer, Reference, Rows
from setadam_core import Hyperparameters

_OPTIONS = frozenset({"maximize", "complex", "empty", "many"})


class Adam(Reference):
    """As torch.optim.Adam: √v/√(1-β₂ᵗ) + ε, and 1 - β**t in double."""

    name = "teeth:adam"
    capabilities = replace(
        Reference.capabilities,
        options=_OPTIONS | {"weight_decay"},
        fixed=ADAM,
        corrections="cancelling-in-float64",
        reloads=(),
    )

    def check(self, param: NumPyArray, grad: NumPyArray, state: LayerState, hp: Hyperparameters, axes: Any) -> None:
        """Shapes and dtypes; moments may have the parameter's own format."""
        moments = state._replace(m=state.m.astype(self.working(state)), v=state.v.astype(self.working(state)))
        super().check(param, grad, moments if state.m.dtype.itemsize == 2 else state, hp, axes)

    def working(self, state: LayerState) -> Any:
        """The dtype of the arithmetic for a state of these moments."""
        return np.dtype(np.float32) if state.m.dtype.itemsize == 2 else state.m.dtype

    def bias(self, beta: float, t: int) -> float:
        return 1 - beta**t

    def denominator(self, c: Layer, v_scaled: Rows) -> Rows:
        return np.sqrt(v_scaled) / np.sqrt(self.bias2(c)) + c.hp.eps

    def translate(self, c: Layer, w: Rows) -> Rows:
        return w


class AdamW(Adam):
    """As torch.optim.AdamW: decay multiplies θ by 1 - ηλ first."""

    name = "teeth:adamw"
    capabilities = replace(Adam.capabilities, options=_OPTIONS | {"decoupled_weight_decay"}, fixed=ADAMW)


class Corrected(Adam):
    """As optax.adam: m̂ and v̂ are formed, with 1 - β**t in the dtype of the moments and a β rounded to it."""

    name = "teeth:optax"
    capabilities = replace(Adam.capabilities, corrections="cancelling")

    def correction(self, c: Layer, beta: float) -> Any:
        dtype = c.v.dtype.type
        return dtype(1) - dtype(beta) ** dtype(c.t)

    def denominator(self, c: Layer, v_scaled: Rows) -> Rows:
        return np.sqrt(v_scaled / self.correction(c, c.hp.beta2)) + c.hp.eps

    def update(self, c: Layer, m: Rows, shifted: Rows) -> Rows:
        return -c.hp.lr * ((m / self.correction(c, c.hp.beta1)) / shifted)

    def subtract(self, c: Layer, theta: Rows, update: Rows) -> Rows:
        return theta + update


class Uncorrected(Corrected):
    """As Keras: both corrections are in one stepsize, and ε is with the v that is not corrected."""

    name = "teeth:keras"
    capabilities = replace(Corrected.capabilities, epsilon="uncorrected")

    def denominator(self, c: Layer, v_scaled: Rows) -> Rows:
        return np.sqrt(v_scaled) + c.hp.eps

    def update(self, c: Layer, m: Rows, shifted: Rows) -> Rows:
        alpha = c.hp.lr * np.sqrt(self.correction(c, c.hp.beta2)) / self.correction(c, c.hp.beta1)
        return -(m * alpha / shifted)


class Both(Adam):
    """With ε in both places, √(v̂ + ε) + ε."""

    name = "teeth:both"
    capabilities = replace(Adam.capabilities, epsilon="both")

    def denominator(self, c: Layer, v_scaled: Rows) -> Rows:
        return np.sqrt(v_scaled / self.bias2(c) + c.hp.eps) + c.hp.eps


class CorrectedState(Adam):
    """As torch-optimi: the state holds m̂ and v̂, whose decay factors depend on t."""

    name = "teeth:corrected-state"
    capabilities = replace(Adam.capabilities, corrected_moments=True)

    def rest(self, c: Layer, beta: float) -> float:
        """The weight of the new gradient, (1-β)/(1-βᵗ)."""
        return float(1 - (beta**c.t - beta) / (beta**c.t - 1)) if beta else 1.0

    def moment1(self, c: Layer, g: Rows) -> Rows:
        return c.m + self.rest(c, c.hp.beta1) * (g - c.m)

    def moment2(self, c: Layer, g: Rows) -> Rows:
        rest = self.rest(c, c.hp.beta2)
        return (1 - rest) * c.v + rest * (g * g)

    def bias(self, beta: float, t: int) -> float:
        return 1.0


class Float32Scalars(Adam):
    """As Keras for float64 variables: η is kept in float32."""

    name = "teeth:float32-lr"
    capabilities = replace(Adam.capabilities, float32_scalars=("lr",))

    def hyperparameters(self, hp: Mapping[str, Any]) -> Hyperparameters:
        return super().hyperparameters({**hp, "lr": float(np.float32(hp["lr"]))})


class Rounded(Adam):
    """As torch's fused Adam: 16-bit parameters have moments of 16 bits, and everything is rounded once, at the end."""

    name = "teeth:rounded-once"
    capabilities = replace(Adam.capabilities, moments="parameter")

    def load(self, param: NumPyArray, grad: NumPyArray, state: LayerState, hp: Hyperparameters, axes: Any) -> Layer:
        wide = LayerState(state.m.astype(self.working(state)), state.v.astype(self.working(state)), state.t)
        c = super().load(param, grad, wide, hp, axes)
        c.given = (param, grad, state)
        return c


class Narrow(Adam):
    """As torch's loop: moments of 16-bit parameters are 16 bits wide, and so is every operation."""

    name = "teeth:narrow"
    capabilities = replace(
        Adam.capabilities, dtypes=("bfloat16", "float16"), moments="parameter", arithmetic="parameter"
    )


ADAMS: tuple[type[Adam], ...] = (
    Adam,
    AdamW,
    Corrected,
    Uncorrected,
    Both,
    CorrectedState,
    Float32Scalars,
    Rounded,
    Narrow,
)
