"""CuPy, imported when the first optimizer is made, and a clear word where it or a device is missing."""

from typing import Any


def cupy() -> Any:
    """The module; ImportError where CuPy is not installed, RuntimeError where it finds no CUDA device.

    CuPy itself imports without a device, and fails at the first array.
    """
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            'setadam_cupy needs CuPy: pip install "setadam[cupy]", or the CuPy of your CUDA release, '
            f"such as cupy-cuda12x ({error})"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:  # CUDARuntimeError: no driver, or one that is too old
        raise RuntimeError(f"setadam_cupy needs a CUDA device, and CuPy finds none: {error}") from error
    if count == 0:
        raise RuntimeError("setadam_cupy needs a CUDA device, and CuPy finds none")
    return cupy
