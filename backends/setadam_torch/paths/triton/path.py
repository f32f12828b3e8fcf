"""Triton's kernels as a path: all layers of a device and dtype in two launches."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from setadam_core.parts import Parts
from setadam_torch.checks import memory
from setadam_torch.checks.options import Group
from setadam_torch.checks.tensors import Tensor
from setadam_torch.paths.columns import Columns
from setadam_torch.paths.protocol import Path
from setadam_torch.paths.triton import launches


class Triton(Path):
    """By kernels on a CUDA device, where ``fused=True`` asks for them."""

    name = "triton"
    is_kernel_for = "cuda"
    reads_scaler = True

    @classmethod
    def missing(cls, dtype: Any) -> str | None:
        if find_spec("triton") is None:
            return "it needs Triton, which PyTorch's CUDA builds bring along: pip install triton"
        return None

    @classmethod
    def why_not(cls, group: Group, layer: Sequence[Tensor]) -> str | None:
        if not group["fused"]:
            return "on a GPU fused=True asks for the kernels"
        if layer[0].device.type != "cuda":
            return "it is not on a CUDA device"
        if not memory.hold_values(layer):
            return "a tensor without memory of its values has no address"
        return None

    def moments(self) -> Parts:
        return launches.moments(self.group, self.columns)

    def descend(self, gammas: Tensor, lows: Tensor) -> None:
        launches.descend(self.group, self.columns, gammas, lows)

    @classmethod
    def step(cls, group: Group, columns: Columns) -> None:
        """Both passes without a way back to Python in between."""
        launches.step_layers(group, columns)

    @classmethod
    def scaled_step(cls, group: Group, columns: Columns, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        launches.step_layers(group, columns, grad_scale=grad_scale, found_inf=found_inf)
