"""Layers of all sizes in the rows of one matrix, so that one operation meets each of them with its own number.

torch has no operation that multiplies each tensor of a list by a number of its own that is on a device: it takes a
launch for each tensor. In a matrix of which each layer has whole rows, such numbers are a column.
"""

import math

import torch

from setadam_torch.checks.tensors import Tensor, Tensors
from setadam_torch.paths.parts import on_device

_WIDEST = 4096  # coordinates of a row
_SHARE = 16  # a row is at most this part of a mean layer, since a layer's last row is partly empty


class Rows:
    """Room for some layers, uninitialised. ``layers`` are its parts, in the shapes of the layers that it was made for
    and, if these have no gaps, in their order of memory, as operations on lists need it.
    """

    def __init__(self, like: Tensors) -> None:
        sizes = [x.numel() for x in like]
        width = 1 << int(math.log2(min(max(sum(sizes) // (_SHARE * len(sizes)), 1), _WIDEST)))
        rows = [-(-size // width) for size in sizes]
        self.matrix = torch.empty((sum(rows), width), dtype=like[0].dtype, device=like[0].device)
        self._rows = rows
        self._owner: Tensor = None  # the layer of each row
        room = self.matrix.view(-1).split([n * width for n in rows])
        self.layers = [_laid_out(x, y, size) for x, y, size in zip(room, like, sizes, strict=True)]

    def spread(self, numbers: Tensor) -> Tensor:
        """A number for each layer as a column of the matrix; one number for all as it is."""
        if numbers.ndim == 0:
            return numbers
        if self._owner is None:
            repeats = on_device(self._rows, numbers, torch.int64)
            self._owner = torch.repeat_interleave(repeats, output_size=len(self.matrix))
        return numbers.index_select(0, self._owner)[:, None]


def _laid_out(room: Tensor, like: Tensor, size: int) -> Tensor:
    if like.is_contiguous():
        return room[:size].view(like.shape)
    return room.as_strided(like.shape, torch.empty_like(like, device="meta").stride(), room.storage_offset())
