"""What a backend must offer to be judged: a name, its claims, exact conversions from and to NumPy, and a step.

An adapter is any class with the attributes of `Adapter`; there is nothing to inherit. The kit makes one instance for
each device that it checks. It passes every array as NumPy, bit for bit (bfloat16 as `ml_dtypes.bfloat16`), and never as
Python floats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy.typing as npt

NumPyArray = npt.NDArray[Any]
Native = Any  # the backend's own array

# What an implementation may leave out. It gets no examples that need an option which it does not claim.
OPTIONS = frozenset(
    {
        "weight_decay",  # coupled: λθ is added to the gradient
        "decoupled_weight_decay",
        "maximize",
        "cos_power",  # other than 2
        "eps_inside_sqrt",  # False
        "layer_axes",  # other than None
        "complex",  # complex64 and complex128, where the real dtype of that width is supported
        "empty",  # arrays without elements
        "many",  # several layers in one call
    }
)


# Hyperparameters at which SET-Adam's step is Adam's or AdamW's, for `Capabilities.fixed`.
ADAM: Mapping[str, float | bool] = {
    "cos_power": 0.0,
    "tau": 0.0,
    "eps_inside_sqrt": False,
    "decoupled_weight_decay": False,
}
ADAMW: Mapping[str, float | bool] = {**ADAM, "decoupled_weight_decay": True}


class ProtocolError(Exception):
    """The adapter broke the protocol, so there is no verdict on the implementation behind it."""


class LayerState(NamedTuple):
    """State of one layer.

    m and v: real, in the compute dtype (float32 for 16-bit parameters, unless `Capabilities.moments` says otherwise).
    They have the parameter's shape s, or s + (2,) if it is complex. t: the number of steps taken.
    """

    m: Any
    v: Any
    t: int


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an implementation claims. Claims decide which examples it gets, and how wide its bound is."""

    # Dtypes of parameters: some of float16, bfloat16, float32, float64. Complex dtypes are an option.
    dtypes: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu",)
    options: frozenset[str] = OPTIONS
    # Hyperparameters that are always these, because the implementation does not have them: `ADAM`, `ADAMW`.
    fixed: Mapping[str, float | bool] = field(default_factory=dict, hash=False)
    # Where ε stands. "given": as `eps_inside_sqrt` says. "both": √(v̂ + ε) + ε. "uncorrected": with v before its bias
    # correction ("ε hat" in Adam's paper), so that w = (√v + ε)/√(1-β₂ᵗ).
    epsilon: Literal["given", "both", "uncorrected"] = "given"
    # How 1-βᵗ is formed. "accurate": in double, for float64 as -expm1(t log β). "cancelling-in-float64": as 1 - β**t in
    # double. "cancelling": as 1 - β**t, in double for float64 parameters; for all others in float32, to which β is
    # rounded first.
    corrections: Literal["accurate", "cancelling-in-float64", "cancelling"] = "accurate"
    # The format of m and v for 16-bit parameters: "compute" is float32, "parameter" the parameter's own.
    moments: Literal["compute", "parameter"] = "compute"
    # The format of the arithmetic for 16-bit parameters. With "parameter", every operation may be rounded to it.
    arithmetic: Literal["compute", "parameter"] = "compute"
    # The state holds m/(1-β₁ᵗ) and v/(1-β₂ᵗ) in place of m and v.
    corrected_moments: bool = False
    # Hyperparameters that are rounded to float32 before they are used, for float64 parameters, too.
    float32_scalars: tuple[str, ...] = ()
    # The order of sums over a contiguous layer. "pairwise": any order whose longest chain of additions grows as log d
    # (trees, blocks, lanes, wider accumulators). "any": chains of up to d additions.
    reduction: Literal["pairwise", "any"] = "pairwise"
    # Results and inputs below the smallest normal number may be replaced by zero.
    flushes_subnormals: bool = False
    # A compiler may compute m and v a second time for the parameter's update, with other contractions.
    recomputes_moments: bool = False
    # The bias corrections are formed in the compute dtype from a step count that is an array.
    traced_t: bool = False
    # The largest number of steps that can be counted, the new one among them: 2³¹ - 1 for a counter of 32 bits.
    largest_t: int = 2**53
    # The minimum of a layer may skip NaN (XLA's on CPUs does so in layers of some thousand coordinates).
    minimum_skips_nan: bool = False
    # 16-bit parameters can be rounded stochastically: `step` may get a seed, as `hp["stochastic_rounding"]`. The same
    # seed, t, place among the layers and place in the layer give the same bits; "specified": those of
    # `setadam_core.rounding`.
    stochastic_rounding: Literal["none", "any", "specified"] = "none"
    # The same call gives the same bits.
    deterministic: bool = True
    # Each new set of shapes, dtype and hyperparameters needs a compilation, so the kit uses only a few.
    compiles: bool = False
    # The time of a step including compilations, in steps of the NumPy specification. The number of examples is divided
    # by it. With `compiles`, 10 or more means that one compilation takes seconds; then most properties are tried in one
    # dtype, so that graphs are reused.
    cost: int = 1
    # `step` updates the given parameters and state in place, and returns them.
    in_place: bool = False
    # Ways to save and load a state during a run, for `Reloading.reload`.
    reloads: tuple[str, ...] = ()
    # Ways to shard layers over devices or processes, for `Sharding.step_sharded`.
    layouts: tuple[str, ...] = ()

    @property
    def is_slow(self) -> bool:
        """True if a step or a compilation takes so long that profiles use fewer of them."""
        return self.cost >= 10

    def allows(self, needs: frozenset[str]) -> bool:
        """True if these options are claimed, or belong to hyperparameters that are fixed."""
        return needs - self.fixed.keys() <= self.options

    @property
    def is_elementwise(self) -> bool:
        """True if no operation connects the coordinates of a layer: without down-scaling and translation."""
        return self.fixed.get("cos_power") == 0 and self.fixed.get("tau") == 0

    @property
    def has_other_formulas(self) -> bool:
        """True if the same inputs have another exact result than the specification's."""
        return bool(self.epsilon != "given" or self.corrected_moments or self.float32_scalars or self.is_narrow)

    @property
    def is_narrow(self) -> bool:
        """True if moments or arithmetic of 16-bit parameters have their format."""
        return "parameter" in (self.moments, self.arithmetic)


@runtime_checkable
class Adapter(Protocol):
    """The protocol. `name` distinguishes the paths of a framework: "torch:foreach", "jax:jit"."""

    name: str
    framework: str  # the name for `--backend torch`
    capabilities: Capabilities

    def __init__(self, device: str = "cpu") -> None:
        """Raise ImportError (not installed) or RuntimeError (no such device): then the backend is skipped."""

    def from_numpy(self, x: NumPyArray) -> Native:
        """A native array on the adapter's device, in new memory, with the same bits, shape and dtype."""

    def to_numpy(self, x: Native) -> NumPyArray:
        """The array as NumPy, with the same bits."""

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        """One step of all layers from the given state, in one call of the optimizer. There is at least one layer.

        hp: the fields of `setadam_core.Hyperparameters`, unchecked; and ``stochastic_rounding``, a seed, if that is
        claimed and tried. All states have the same t. Invalid arguments raise the exception that the implementation's
        users would see.
        """


class Reloading(Protocol):
    """Optional: saving and loading a state during a run, for each name in `Capabilities.reloads`."""

    def reload(
        self,
        how: str,
        params: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
    ) -> list[LayerState]:
        """Put the states into an optimizer, transfer them through `how` ("state_dict", "pickle", "deepcopy", "npz", …)
        to another optimizer, and return the states of that one.
        """


class Sharding(Protocol):
    """Optional: a step with arrays sharded over devices or processes, for each name in `Capabilities.layouts`. The
    adapter chooses the names ("rows", …).
    """

    def step_sharded(
        self,
        layout: str,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        """Like `Adapter.step`: takes and returns whole arrays. An array that a layout cannot divide is replicated on
        every device.
        """
