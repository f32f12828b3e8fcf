"""What `make gpu` runs: a command for each part, what it needs, and how long it may take."""

import sys
from typing import NamedTuple

SECONDS = 19 * 60  # for all parts together

# What a part may need: code that fails where it is not there; its last line says why. "tool" names are looked up.
NEEDS = {
    "torch": "import torch\nassert torch.cuda.is_available(), f'torch {torch.__version__} sees no CUDA device'",
    "triton": "import triton",
    "cupy": "import cupy\ncupy.zeros(1) + 1",
    "jax": "import jax\njax.devices('cuda')",
    "pytest": "import pytest, hypothesis",
    "kit": "import setadam_conformance.cli, hypothesis, mpmath, rich",
    "nccl": "import torch\nassert torch.distributed.is_nccl_available(), 'this torch has no NCCL'",
}
TOOLS = ("compute-sanitizer",)
REPORT = "{report}"  # in a command: the file to which a part may write its figures, see `report`
RANKS = "{devices}"  # the number of devices


class Part(NamedTuple):
    """One process. It passes if it exits with 0, and, of tests, if at least one of them passed."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...]
    seconds: int
    tests: bool = False


def marked(name: str, *needs: str, seconds: int, paths: tuple[str, ...]) -> Part:
    """The tests of some files that are marked gpu. pytest's arguments: files, folders and options."""
    command = (sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider", *paths)
    return Part(name, command, ("pytest", *needs), seconds, tests=True)


def sanitized(tool: str, framework: str, seconds: int, *needs: str) -> Part:
    """One step of small and misaligned layers under NVIDIA's checker of memory or of races."""
    checker = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--print-limit", "20")
    step = (sys.executable, "-m", "benchmarks.gpu.one_step", framework)
    return Part(f"compute-sanitizer {tool}: {framework}", (*checker, *step), ("compute-sanitizer", *needs), seconds)


def kit(backend: str, seconds: int, *needs: str) -> Part:
    """The conformance kit on the device."""
    run = (sys.executable, "-m", "setadam_conformance.cli", "run", "--device", "cuda:0", "--summary")
    return Part(f"kit: {backend}", (*run, "--backend", backend), ("kit", *needs), seconds)


def sharded(ranks: str, seconds: int) -> Part:
    """FSDP2 with so many processes, each with a device of its own."""
    command = (sys.executable, "-m", "benchmarks.gpu.sharded", "--ranks", ranks, "--report", REPORT)
    name = "FSDP2: one rank" if ranks == "1" else "FSDP2: a rank for each device"
    return Part(name, command, ("torch", "nccl"), seconds)


OPTIMIZER = "tests/torch/test_gpu.py"
PARTS = (
    marked("tests: Triton", "torch", "triton", seconds=180, paths=("tests/triton",)),
    marked("tests: CuPy", "cupy", seconds=90, paths=("tests/cupy", "tests/core")),
    marked("tests: torch", "torch", seconds=60, paths=("tests/torch", f"--ignore={OPTIMIZER}")),
    marked("tests: JAX", "jax", seconds=90, paths=("tests/jax",)),
    marked("tests: the optimizer as users have it", "torch", "triton", seconds=120, paths=(OPTIMIZER,)),
    sanitized("memcheck", "triton", 60, "torch", "triton"),
    sanitized("racecheck", "triton", 60, "torch", "triton"),
    sanitized("memcheck", "cupy", 45, "cupy"),
    sanitized("racecheck", "cupy", 45, "cupy"),
    kit("torch", 150, "torch", "triton"),
    kit("cupy", 60, "cupy"),
    kit("jax", 90, "jax"),
    Part(
        "benchmarks: the fused step",
        (sys.executable, "-m", "benchmarks.gpu_fused", "--report", REPORT),
        ("torch", "triton"),
        240,
    ),
    sharded("1", 40),
    sharded(RANKS, 60),
)
