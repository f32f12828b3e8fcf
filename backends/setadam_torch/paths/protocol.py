"""What a path is: one way to compute a step, in two passes over memory with four numbers a layer between them.

    moments    g, m, v → m, v, and of each layer max v, Σv, Σv², min v (`setadam_core.parts.Parts`)
    combine    these → γ and min v, over all processes that hold a part of the layer, if there are several
    descend    θ, m, v, γ, min v → θ

An unsharded step (`two_passes` here) and a sharded one (`setadam_torch.sharding`) are written over this protocol once
for all paths. A path that can do a whole step faster in one call overrides `Path.step`; the conformance kit holds the
two forms to the same bound.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from setadam_core.layers import Layer
from setadam_core.parts import Parts, combine
from setadam_torch.checks.options import Group
from setadam_torch.checks.tensors import Tensor, layer_of
from setadam_torch.paths.columns import Columns, by_device_and_dtype, without_empty
from setadam_torch.paths.parts import each_layer, layer_count


class Path(ABC):
    """One way to compute a step. The class says which layers it serves; an instance is one step of some layers.

    The tensors of an instance are of one device and dtype, have been checked, and none is empty.
    """

    name: ClassVar[str]
    is_kernel_for: ClassVar[str | None] = None  # a device type, if this is what fused=True means there
    reads_scaler: ClassVar[bool] = False  # whether it has a `scaled_step`

    def __init__(self, group: Group, columns: Columns) -> None:
        self.group, self.columns = group, columns
        self._layers: list[Layer] = []

    @property
    def layers(self) -> list[Layer]:
        """The layers of each parameter."""
        if not self._layers:
            axes = self.group["layer_axes"]
            self._layers = [layer_of(param, axes) for param in self.columns.params]
        return self._layers

    @property
    def widths(self) -> list[int]:
        """How many layers each parameter stacks."""
        return [layer_count(param, self.group["layer_axes"]) for param in self.columns.params]

    @classmethod
    def missing(cls, dtype: Any) -> str | None:
        """What this machine lacks for parameters of a dtype; None if the path can run."""
        return None

    @classmethod
    @abstractmethod
    def why_not(cls, group: Group, layer: Sequence[Tensor]) -> str | None:
        """Why this path does not update a layer, given its θ, g, m and v; None if it does."""

    @classmethod
    def begin(cls, group: Group, columns: Columns) -> "list[Path]":
        """One step of these layers, in portions that go together between the two passes."""
        return [cls(group, part) for part in by_device_and_dtype(columns)]

    @abstractmethod
    def moments(self) -> Parts:
        """The first pass: count the step and update the moments.

        Returns
        -------
        Parts : of what is here of each layer, float64 tensors of shape (layers,) on the tensors' device. The layers
            of a parameter with ``layer_axes`` follow one another.
        """

    @abstractmethod
    def descend(self, gammas: Tensor, lows: Tensor) -> None:
        """The second pass: update the parameters, given γ and min v of each whole layer, as `Parts` in order,
        dtype, shape and device.
        """

    @classmethod
    def step(cls, group: Group, columns: Columns) -> None:
        """One step of whole layers, in place."""
        two_passes(cls, group, columns)

    @classmethod
    def scaled_step(cls, group: Group, columns: Columns, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """`step` as torch.amp.GradScaler asks by its two tensors, see `setadam_torch.scaler`, read on the device."""
        raise NotImplementedError(f"{cls.name} does not read a scaler's tensors: see `reads_scaler`")


def two_passes(path: type[Path], group: Group, columns: Columns) -> None:
    """One step of whole layers, pass by pass, in place. A portion descends while it may still be in the cache."""
    for begun in path.begin(group, without_empty(columns)):
        parts, layers = begun.moments(), begun.layers
        sizes = each_layer([layer.size for layer in layers], begun.widths, parts.high)
        whole = Parts(*(x[None] for x in parts))
        begun.descend(*combine(whole, sizes, group["cos_power"], layers[0].xp))
