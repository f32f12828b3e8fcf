"""A case as a backend with some claims gets it: with the hyperparameters that it fixes, in the formats of its state."""

from dataclasses import replace

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.cases.formats import compute_format, moment_format
from setadam_conformance.cases.reading import classes_in
from setadam_conformance.protocol import Capabilities, NumPyArray


def as_claimed(case: Case, claims: Capabilities) -> Case:
    """The case with fixed hyperparameters, moments in the claimed format, and a step count that can be held.

    A moment beyond the range of a narrower format becomes its largest number.
    """
    hp = {**case.hp, **claims.fixed}
    if hp["decoupled_weight_decay"] != case.hp["decoupled_weight_decay"]:
        wanted = "decoupled_weight_decay" if hp["decoupled_weight_decay"] else "weight_decay"
        hp["weight_decay"] = hp["weight_decay"] if wanted in claims.options else 0.0
    t = min(case.t, claims.largest_t - 1)
    fitted = case if (t, hp) == (case.t, case.hp) else replace(case, t=t, hp=hp)
    if moment_format(case.dtype, claims) is compute_format(case.dtype):
        return fitted
    # In a narrow format, small moments become zeros and close ones equal. The classes are those of what was drawn.
    layers = tuple(_narrowed(layer, case.dtype, claims) for layer in case.layers)
    return replace(fitted, layers=layers, extra={**case.extra, "drawn": classes_in(fitted)})


def _narrowed(layer: LayerCase, dtype: str, claims: Capabilities) -> LayerCase:
    to = moment_format(dtype, claims)

    def rounded(x: NumPyArray) -> NumPyArray:
        # In two steps, because a clipped infinity would be lost.
        within = np.where(np.isfinite(x), np.clip(x, -to.largest, to.largest), x)
        narrow = np.empty_like(x, dtype=to.numpy)  # with the order in memory of x
        narrow[...] = within
        return narrow

    return replace(layer, m=rounded(layer.m), v=rounded(layer.v))
