"""What a backend must offer to be judged: a name, what it can do, bits in, bits out, and a step.

An adapter is any class with the attributes of `Adapter`; nothing has to be inherited. The kit makes an
instance for each device that it checks, and hands every array over as NumPy, bit for bit (bfloat16 as
`ml_dtypes.bfloat16`), so that no Python float is in between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy.typing as npt

NumPyArray = npt.NDArray[Any]
Native = Any  # the backend's own array

# What an implementation may leave out. Examples that need an option it lacks are not made for it.
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


class ProtocolError(Exception):
    """The adapter itself broke the protocol: nothing can be said of the implementation behind it."""


class LayerState(NamedTuple):
    """State of one layer. m and v: real, in the compute dtype (float32 for 16-bit parameters), of the
    parameter's shape s, or s + (2,) where it is complex. t: the number of steps taken.
    """

    m: Any
    v: Any
    t: int


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an implementation claims. Each claim widens or narrows what it is judged by."""

    # Dtypes of parameters, of float16, bfloat16, float32, float64. Complex goes by OPTIONS.
    dtypes: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu",)
    options: frozenset[str] = OPTIONS
    # In which order Σ runs over a contiguous layer: "pairwise" is any order whose longest chain of
    # additions grows as log d (trees, blocks, lanes, wider accumulators); "any" has chains up to d.
    reduction: Literal["pairwise", "any"] = "pairwise"
    # Results and inputs below the smallest normal number may be read as zero.
    flushes_subnormals: bool = False
    # A compiler may compute m and v once more, contracted otherwise, for the parameter's update.
    recomputes_moments: bool = False
    # The bias corrections are formed in the compute dtype from a step count that is an array.
    traced_t: bool = False
    # The same call gives the same bits.
    deterministic: bool = True
    # Each new set of shapes, dtype and hyperparameters costs a compilation: the kit keeps to a few of them.
    compiles: bool = False
    # What a step costs, compilations and all, in steps of the NumPy specification: the kit makes so many times
    # fewer examples. With `compiles`, 10 or more says that one compilation takes seconds: then most is tried
    # in one dtype, where its graphs are used again.
    cost: int = 1
    # `step` writes the parameters and state that it is given, and returns them.
    in_place: bool = False
    # Ways in which a state can leave and re-enter the optimizer in mid-run, for `Adapter.reload`.
    reloads: tuple[str, ...] = ()
    # Ways in which layers can be spread over devices or processes, for `Sharding.step_sharded`.
    layouts: tuple[str, ...] = ()

    @property
    def is_slow(self) -> bool:
        """A step, or a compilation, takes so long that profiles spare it."""
        return self.cost >= 10


@runtime_checkable
class Adapter(Protocol):
    """The protocol. `name` tells paths of one framework apart: "torch:foreach", "jax:jit"."""

    name: str
    framework: str  # what `--backend torch` selects by
    capabilities: Capabilities

    def __init__(self, device: str = "cpu") -> None:
        """Raise ImportError (not installed) or RuntimeError (no such device): then it is skipped."""

    def from_numpy(self, x: NumPyArray) -> Native:
        """The same bits, shape and dtype as a native array on the adapter's device, in fresh memory."""

    def to_numpy(self, x: Native) -> NumPyArray:
        """The same bits back."""

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        """One step of all layers from the given state, in one call of the optimizer.

        hp: the fields of `setadam_core.Hyperparameters`, unchecked. All states have the same t.
        An argument that the implementation must refuse raises whatever its users would see.
        """


class Reloading(Protocol):
    """Optional: how a state survives in mid-run, for each name in `Capabilities.reloads`."""

    def reload(
        self,
        how: str,
        params: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
    ) -> list[LayerState]:
        """Put the states into an optimizer, send it through `how` ("state_dict", "pickle", "deepcopy",
        "npz", …) into another optimizer, and return the states as that one has them.
        """


class Sharding(Protocol):
    """Optional: a step whose arrays are spread over devices or processes, in each way of
    `Capabilities.layouts`, whose names ("rows", …) are the adapter's own.
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
        """As `Adapter.step`, of whole arrays and giving whole arrays back. An array that a layout cannot cut
        stays whole on every device.
        """
