"""Adapters of SETAdam's paths for the conformance kit: plain NumPy, and the compiled kernel if it is installed."""

import numpy as np

from setadam_conformance.adapters.inplace import InPlaceAdapter
from setadam_conformance.cases.case import copied
from setadam_conformance.protocol import Capabilities, Native, NumPyArray
from setadam_numpy import SETAdam
from setadam_numpy.fused import why_not


class NumPyPlain(InPlaceAdapter):
    """SETAdam with fused=False."""

    name = "numpy:plain"
    framework = "numpy"
    capabilities = Capabilities(
        dtypes=("float64", "float32", "bfloat16", "float16"),
        stochastic_rounding="specified",
        in_place=True,
        reloads=InPlaceAdapter.reloads,
    )
    optimizer = SETAdam
    fused = False

    def __init__(self, device: str = "cpu") -> None:
        if device not in self.capabilities.devices:
            raise RuntimeError(f"{self.name} has no device {device!r}")

    def from_numpy(self, x: NumPyArray) -> Native:
        return copied(x)

    def to_numpy(self, x: Native) -> NumPyArray:
        return np.asarray(x)


class NumPyFused(NumPyPlain):
    """SETAdam with fused=True: the compiled kernel, for arrays whose layers have no gaps in memory."""

    name = "numpy:fused"
    fused = True

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        if (reason := why_not(np.float32)) is not None:
            raise ImportError(reason)
