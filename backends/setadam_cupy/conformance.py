"""Adapters of SETAdam's paths for the conformance kit: the specification on CuPy arrays, and the kernels."""

from dataclasses import replace
from typing import Any

import numpy as np

from setadam_conformance.adapters.inplace import InPlaceAdapter
from setadam_conformance.protocol import Capabilities, Native, NumPyArray
from setadam_cupy import SETAdam
from setadam_cupy.device import cupy

_DEVICES = ("cuda", "cuda:0")


class CuPyFused(InPlaceAdapter):
    """SETAdam as users make it: two kernels for up to 64 layers."""

    name = "cupy:fused"
    framework = "cupy"
    capabilities = Capabilities(
        dtypes=("float64", "float32", "float16"), devices=_DEVICES, in_place=True, reloads=InPlaceAdapter.reloads
    )
    optimizer = SETAdam
    fused = True

    def __init__(self, device: str = "cuda:0") -> None:
        if device not in self.capabilities.devices:
            raise RuntimeError(f"{self.name} has no device {device!r}")
        self._xp: Any = cupy()

    def from_numpy(self, x: NumPyArray) -> Native:
        return self._xp.array(x, order="K")

    def to_numpy(self, x: Native) -> NumPyArray:
        return np.asarray(self._xp.asnumpy(x))


class CuPyPlain(CuPyFused):
    """SETAdam with fused=False: `setadam_core.step` on CuPy's own kernels.

    CuPy compiles them with -ftz=true. In its sums, the part that one thread adds up grows with the layer.
    """

    name = "cupy:plain"
    capabilities = replace(CuPyFused.capabilities, flushes_subnormals=True, reduction="any")
    fused = False
