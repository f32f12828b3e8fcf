"""The tensors of some parameters: rows, one a parameter, or columns, one for each role."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from setadam_torch.checks.tensors import Tensor, Tensors
from setadam_torch.paths.counts import advance


class Columns(NamedTuple):
    """The tensors of some parameters, a list for each role."""

    params: Tensors
    grads: Tensors
    exp_avgs: Tensors
    exp_avg_sqs: Tensors
    steps: Tensors


def columns_of(rows: Iterable[Sequence[Tensor]]) -> Columns:
    """The columns of rows, each of a parameter, its gradient, its moments and its step count."""
    columns = Columns([], [], [], [], [])
    for row in rows:
        for column, x in zip(columns, row, strict=True):
            column.append(x)
    return columns


def rows_of(columns: Columns) -> Iterable[tuple[Tensor, ...]]:
    """The inverse of `columns_of`."""
    return zip(*columns, strict=True)


def without_empty(columns: Columns) -> Columns:
    """The layers that have coordinates. The others have taken their step when it is counted."""
    if all([param.numel() > 0 for param in columns.params]):  # noqa: C419  # Dynamo has no generators here
        return columns
    rows = list(rows_of(columns))
    advance([row[4] for row in rows if row[0].numel() == 0])
    return columns_of([row for row in rows if row[0].numel() > 0])


def by_device_and_dtype(columns: Columns) -> list[Columns]:
    """The columns, apart for each device and dtype of the parameters."""
    kinds: dict[Any, list[Any]] = {}
    for row in rows_of(columns):
        kinds.setdefault((row[0].device, row[0].dtype), []).append(row)
    return [columns] if len(kinds) == 1 else [columns_of(rows) for rows in kinds.values()]
