"""A stand-in for CuPy on a machine without a GPU: NumPy arrays, and kernels.cu compiled for the CPU.

It has only what setadam_cupy uses, so it also documents that.
"""

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

HERE = Path(__file__).parent


def module(compiler: str, folder: Path) -> ModuleType:
    """The module, with two devices that both are this CPU.

    Beside CuPy's names: ``allocations`` and ``launches`` (name, device, blocks) so far, in `log`.
    """
    cupy = ModuleType("cupy")
    log = SimpleNamespace(allocations=0, launches=[])
    current = [0]

    class Device:
        def __init__(self, device=0):
            self.id = device

        def __enter__(self):
            current.append(self.id)
            return self

        def __exit__(self, *error):
            current.pop()

        def __eq__(self, other):
            return self.id == other.id

    class ndarray(np.ndarray):  # noqa: N801
        on = 0

        def __new__(cls, shape, dtype, memptr, strides):
            interface = {"version": 3, "data": (memptr.ptr, False), "shape": shape, "strides": strides}
            interface["typestr"] = np.dtype(dtype).str
            return np.asarray(SimpleNamespace(__array_interface__=interface, owner=memptr)).view(cls)

        def __array_finalize__(self, source):
            self.on = getattr(source, "on", current[-1])

        @property
        def data(self):
            return SimpleNamespace(ptr=self.__array_interface__["data"][0], owner=self)

        @property
        def device(self):
            return Device(self.on)

        @property
        def flags(self):  # CuPy's do not know of writeable
            own = super().flags
            return SimpleNamespace(c_contiguous=own.c_contiguous, f_contiguous=own.f_contiguous)

    ndarray.__module__, ndarray.__qualname__ = "cupy", "ndarray"  # for pickle

    def counted(make):
        def made(*args, **kwargs):
            log.allocations += 1
            new = np.asarray(make(*args, **kwargs)).view(ndarray)
            new.on = current[-1]
            return new

        return made

    def compile_using_nvrtc(source, options=()):
        assert options == ("--std=c++17", "--fmad=false", "-DTHREADS=256")
        return source.encode(), {}

    @cache
    def library(image):
        return compiled(image.decode(), compiler, folder)

    class Module:
        def load(self, image):
            self.library = library(image)

        def get_function(self, name):
            launch = getattr(self.library, f"launch_{name}")

            def call(grid, block, args):
                assert block == (256,)
                assert all(np.asarray(x).flags.c_contiguous for x in args)
                log.launches.append((name, current[-1], *grid))
                launch(*grid, *(ctypes.c_void_p(x.__array_interface__["data"][0]) for x in args))

            return call

    cupy.log, cupy.ndarray = log, ndarray
    cupy.array, cupy.asarray, cupy.asnumpy = counted(np.array), counted(np.asarray), np.asarray
    cupy.zeros, cupy.zeros_like, cupy.copyto = counted(np.zeros), counted(np.zeros_like), np.copyto
    cupy.cuda = SimpleNamespace(
        Device=Device,
        runtime=SimpleNamespace(getDeviceCount=lambda: 2),
        compiler=SimpleNamespace(compile_using_nvrtc=compile_using_nvrtc),
        function=SimpleNamespace(Module=Module),
    )
    return cupy


def compiled(code: str, compiler: str, folder: Path) -> ctypes.CDLL:
    """kernels.cu as a library. As on a GPU, products and sums are one operation only where the source says so."""
    parts = [HERE.joinpath("host.h").read_text(), code, HERE.joinpath("host.cpp").read_text()]
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text("\n".join(parts), encoding="utf-8")
    flags = [
        "-std=c++20",
        "-O2",
        "-march=native",
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
    ]
    command = [compiler, *flags, "-shared", "-fPIC", "-pthread", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))
