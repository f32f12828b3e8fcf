"""Where to look: from what separates to the stage of the algorithm."""

from setadam_conformance.diagnosis.contrast import Contrast
from setadam_conformance.diagnosis.numbers import Number
from setadam_conformance.diagnosis.trying import SPREAD

M = "m = β₁m + (1-β₁)g"
V = "v = β₂v + (1-β₂)g²"
S = "S, γ = cos²∠(v, 1) over the layer"
E = "E, w = √(v̂ + ε)"
T = "T, w̃ = w - τ min w"
BIAS1, BIAS2 = "the bias correction 1-β₁ᵗ", "the bias correction 1-β₂ᵗ"
LAYER = "what is taken over a layer: the sums of γ, or min w"
UPDATE = "the update η/(1-β₁ᵗ) m/w̃"

# (dimension, class): a row that is otherwise wrong is right with it. The first that fits counts.
_IF_RIGHT = {
    ("tau", "0"): T,
    ("cos_power", "0"): S,
    ("eps_is", "outside"): E,
    ("eps", "large"): "the terms beside ε: γ, 1-β₂ᵗ",
    ("eps", "tiny"): E,
    ("magnitude", "large"): E,
    ("shape", "(1,)"): LAYER,
    ("shape", "()"): LAYER,
    ("values", "constant"): LAYER,
    ("beta2", "0"): BIAS2,
    ("beta1", "0"): BIAS1,
}
# (dimension): a row that is otherwise right is wrong when the dimension changes.
_IF_WRONG = {
    "numbers": "complex numbers: real and imaginary parts are the coordinates of one layer",
    "layers": "what one layer leaves to the next: buffers, indices, a statistic over all layers",
    "place": "what one layer leaves to the next: buffers, indices, a statistic over all layers",
    "axes": "layer_axes: one γ and one minimum for each layer in the array",
    "order": "strides: arrays that are not contiguous",
    "decay": "weight decay",
    "direction": "maximize",
    "cos_power": S,
    "eps_is": "ε outside of the root",
    "tau": T,
    "t": "the step count, and the bias corrections",
    "beta1": BIAS1,
    "beta2": BIAS2,
    "eps": E,
    "shape": "the ends of blocks, and d",
    "least": "min w",
    "special": "NaN and infinity: the maximum in γ, min w, comparisons",
    "values": "g or v that are 0, or that one coordinate dominates",
    "magnitude": "overflow and underflow: γ is of v / max v",
    "dtype": "the conversion between the formats",
    "lr": "η",
    "theta": "rounding: the error is small, and other values of θ hide it",
}


# By the kind of the number that would explain a wrong θ.
_BY_NUMBER = {
    "v̂": "v̂ = γv/(1-β₂ᵗ), that is " + S + ", and 1-β₂ᵗ",
    "ε": E,
    "translation": T,
    "update": UPDATE,
    "decay": "weight decay",
}


def place(found: Contrast, number: Number | None) -> str:
    """Where to look, or nothing if neither the contrast nor the number says."""
    where = _place(found)
    return _BY_NUMBER[number.kind] if number is not None and where in ("", UPDATE) else where


def _place(found: Contrast) -> str:
    if found.stage in ("m", "v") and not _changed(found):
        return M if found.stage == "m" else V
    if found.base_is_wrong:
        if _late_is_right(found):
            return BIAS1 if "0" in found.right("beta1") else BIAS2 if "0" in found.right("beta2") else "1-βᵗ"
        for (name, c), where in _IF_RIGHT.items():
            if c in found.right(name) and found.stage == "param":
                return where
        return UPDATE if found.stage == "param" else ""
    if found.stage == SPREAD:
        return _IF_WRONG["special"]
    wrong = [name for name in _IF_WRONG if found.wrong(name)]
    where = _IF_WRONG[wrong[0]] if wrong else ""
    if found.stage in ("m", "v") and where:
        return f"{where}, in {M if found.stage == 'm' else V}"
    return where


def _changed(found: Contrast) -> bool:
    return not found.base_is_wrong and bool(found.separating)


def _late_is_right(found: Contrast) -> bool:
    """Both bias corrections are 1 after many steps."""
    return "0" in found.wrong("t") and "beyond 2²⁴" in found.right("t")
