"""Which path takes which layers."""

from collections.abc import Sequence
from typing import Any

import torch

from setadam_torch.checks import in_bulk
from setadam_torch.checks.options import Group
from setadam_torch.checks.tensors import Tensor
from setadam_torch.paths.blocks import Blocks
from setadam_torch.paths.columns import Columns, columns_of, rows_of
from setadam_torch.paths.cpu_kernel.path import CPUKernel
from setadam_torch.paths.foreach import Foreach
from setadam_torch.paths.protocol import Path
from setadam_torch.paths.single import Single
from setadam_torch.paths.triton.path import Triton

# In order of preference. The last one is the specification, which serves everything.
PATHS: tuple[type[Path], ...] = (Triton, CPUKernel, Blocks, Foreach, Single)


def by_path(group: Group, columns: Columns) -> dict[type[Path], Columns]:
    """The layers of a group, apart for the paths that update them. torch.compile traces the foreach path alone."""
    if torch.compiler.is_compiling():
        return {Foreach: columns}
    if in_bulk.take_one_path(group, *columns[:4]):
        return {path_of(group, [column[0] for column in columns[:4]]): columns}
    rows: dict[type[Path], list[Any]] = {}
    for row in rows_of(columns):
        rows.setdefault(path_of(group, row[:4]), []).append(row)
    return {path: columns_of(some) for path, some in rows.items()}


def path_of(group: Group, layer: Sequence[Tensor]) -> type[Path]:
    """The first path that serves a layer, given its θ, g, m and v."""
    return next(path for path in PATHS if path.why_not(group, layer) is None)


def why_no_kernel(device_type: str, dtype: Any) -> str | None:
    """Why ``fused=True`` cannot be had for parameters of a device and dtype; None if it can."""
    for path in PATHS:
        if path.is_kernel_for == device_type:
            return path.missing(dtype)
    return f"there is no kernel for {device_type}"
