"""The hyperparameters of SET-Adam, validated once, where they are made."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Set, Sized
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

Scalar = Any  # a real Python number, or a 0-d array of the namespace in which the step is computed

_NOT_NEGATIVE: tuple[str, Callable[[float], bool]] = ("finite and ≥ 0", lambda x: x >= 0)
_FRACTION: tuple[str, Callable[[float], bool]] = ("in [0, 1)", lambda x: 0 <= x < 1)

# What each number may be: in the words of the error, and as a test of a finite value.
_ALLOWED = {
    "lr": _NOT_NEGATIVE,
    "beta1": _FRACTION,
    "beta2": _FRACTION,
    "eps": ("finite and > 0", lambda x: x > 0),
    "tau": _FRACTION,
    "weight_decay": _NOT_NEGATIVE,
    "cos_power": _NOT_NEGATIVE,
}
# The options of an optimizer's group that are hyperparameters, beside ``betas``.
NUMBERS = ("lr", "eps", "tau", "weight_decay", "cos_power")
SWITCHES = ("decoupled_weight_decay", "maximize", "eps_inside_sqrt")


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Hyperparameters of one step, in the order of the paper's algorithm (arXiv 2302.01029).

    Numbers become Python floats and switches bools, so that equal settings are equal (and hash alike: an
    instance can be a static argument of a traced function). Any number but ``cos_power`` may instead be a 0-d
    array, traced or on a device: it is used as it is, unread and therefore unchecked.

    Parameters
    ----------
    lr : stepsize η ≥ 0, in units of the parameter.
    beta1, beta2 : decay rates β₁, β₂ in [0, 1) of the first and second moment.
    eps : ε > 0, in units of the gradient squared: it is added *under* the square root, so the
        denominator is never below (1-τ)√ε. Adam's ``eps=1e-4`` is SET-Adam's ``eps=1e-8``.
        ε = 0 is not allowed: a coordinate that has had no gradient would get 0/0.
    tau : share τ in [0, 1) of the layer's smallest denominator that is taken off; 0 switches
        down-translating off.
    weight_decay : λ ≥ 0, added to the gradient as λθ.
    decoupled_weight_decay : shrink θ by 1 - ηλ instead, outside the moments, as AdamW does.
    maximize : ascend: use -g.
    cos_power : power n ≥ 0 of the cosine in γ = cosⁿ∠(v, 1). The paper's is 2; 0 switches
        down-scaling off.
    eps_inside_sqrt : False adds ε after the square root, as Adam does (an ablation).

    Raises
    ------
    TypeError : a value that is not a number, or a switch that is neither a bool nor NumPy's.
    ValueError : a number out of its range; the error names it, its value and the range.
    """

    lr: Scalar = 1e-3
    beta1: Scalar = 0.9
    beta2: Scalar = 0.999
    eps: Scalar = 1e-8
    tau: Scalar = 0.5
    weight_decay: Scalar = 0.0
    decoupled_weight_decay: bool = False
    maximize: bool = False
    cos_power: float = 2
    eps_inside_sqrt: bool = True

    def __post_init__(self) -> None:
        for name, (allowed, accepts) in _ALLOWED.items():
            value = getattr(self, name)
            if is_array_scalar(value) and name != "cos_power":
                continue
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name} must be a real number, got {value!r}")
            try:
                number = float(value)
            except OverflowError:  # an int beyond float64
                number = math.inf
            if not (math.isfinite(number) and accepts(number)):
                raise ValueError(f"{name} must be {allowed}, got {value!r}")
            object.__setattr__(self, name, number)
        for name in SWITCHES:
            value = getattr(self, name)
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {value!r}")
            object.__setattr__(self, name, bool(value))

    @property
    def decays(self) -> bool:
        """Whether there is a weight decay to apply; a λ that is an array counts, as it is unread."""
        return is_array_scalar(self.weight_decay) or self.weight_decay != 0

    def check_representable(self, dtype: str, smallest_normal: float, largest: float) -> None:
        """Raise ValueError if a number is lost on its way into the compute dtype.

        An ε below the smallest normal number is read as 0 by hardware that flushes subnormals,
        and an lr, ε or weight decay above the largest number as infinity.
        """
        if not is_array_scalar(self.eps) and self.eps < smallest_normal:
            raise ValueError(
                f"eps must be at least {smallest_normal:.4g}, the smallest normal number of {dtype}, "
                f"in which the step is computed, got {self.eps!r}: it would underflow"
            )
        for name in ("lr", "eps", "weight_decay"):
            value = getattr(self, name)
            if not is_array_scalar(value) and value > largest:
                raise ValueError(
                    f"{name} must be at most {largest:.4g}, the largest number of {dtype}, "
                    f"in which the step is computed, got {value!r}"
                )


def from_options(options: Mapping[str, Any], arrays: Collection[str] = ()) -> Hyperparameters:
    """The hyperparameters among the options of an optimizer's group, where β₁ and β₂ are a pair, ``betas``.

    Raises
    ------
    TypeError, ValueError : an option that does not fit, by its name. A 0-d array is a TypeError unless ``arrays``
        names its option: reading one that is on a device would wait for the device.
    """
    betas = options["betas"]
    if not _is_pair(betas):
        raise ValueError(f"betas must be a pair of numbers in [0, 1), got {betas!r}")
    numbers = {name: options[name] for name in NUMBERS} | dict(zip(("beta1", "beta2"), betas, strict=True))
    for name, value in numbers.items():
        if is_array_scalar(value) and name not in arrays:
            allowed = f" (only {', '.join(arrays)} may be an array)" if arrays else ""
            raise TypeError(f"{name} must be a number{allowed}, got an array ({type(value).__name__})")
    return Hyperparameters(**numbers, **{name: options[name] for name in SWITCHES})


def _is_pair(x: Any) -> bool:
    if isinstance(x, str | bytes | Mapping | Set) or not (isinstance(x, Iterable) and isinstance(x, Sized)):
        return False
    return getattr(x, "ndim", 1) == 1 and len(x) == 2


def is_array_scalar(value: Any) -> bool:
    """Whether a hyperparameter or step count is a 0-d array rather than a Python number."""
    return getattr(value, "shape", None) == () and not isinstance(value, Real | np.generic)
