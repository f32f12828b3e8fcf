"""Imports CuPy when the first optimizer is created. Errors say whether CuPy or a device is missing."""

from typing import Any

from setadam_core.extras import pip_install


def cupy() -> Any:
    """The module. ImportError if CuPy is not installed, RuntimeError if it finds no CUDA device.

    CuPy itself can be imported without a device, and fails when the first array is created.
    """
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            f"setadam_cupy needs CuPy: {pip_install('cupy')}, or the CuPy of your CUDA release, "
            f"such as cupy-cuda12x ({error})"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:  # CUDARuntimeError: no driver, or one that is too old
        raise RuntimeError(f"setadam_cupy needs a CUDA device, and CuPy finds none: {error}") from error
    if count == 0:
        raise RuntimeError("setadam_cupy needs a CUDA device, and CuPy finds none")
    return cupy
