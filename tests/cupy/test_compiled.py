"""kernels.cu compiled by CuPy's own compiler call. Needs CuPy and NVRTC (extra testcupy), but no GPU."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

# CuPy asks the device for its architecture; here it is given one, and PTX is asked for, which can be read.
PROGRAM = """
import sys
from types import SimpleNamespace
import cupy
from setadam_cupy import launch
cupy.cuda.compiler._get_arch_for_options_for_nvrtc = lambda arch=None: ("-arch=compute_90", "ptx")
passed = []
class Program(cupy.cuda.compiler._NVRTCProgram):
    def compile(self, options=(), log_stream=None):
        passed.extend(options)
        return super().compile(options, log_stream)
cupy.cuda.compiler._NVRTCProgram = Program
images = []
cupy.cuda.function.Module = lambda: SimpleNamespace(load=images.append)
launch.module(cupy, 0)
print(*passed)
sys.stdout.write(images[0].decode())
"""
# Of single precision; double precision's division starts from an approximation that is called rcp.approx.ftz.f64.
LOOSE = re.compile(r"(div|sqrt|rcp|rsqrt)\.(approx|full)[\w.]*f32|\w+[\w.]*\.ftz[\w.]*f(32|16)")


@pytest.fixture(scope="module")
def compiled():
    """The options that NVRTC received, and the PTX."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=dict(os.environ))
    if "libnvrtc" in run.stderr:
        pytest.skip(f"CuPy finds no NVRTC: {run.stderr.splitlines()[-1]}")
    assert run.returncode == 0, run.stderr
    options, _, ptx = run.stdout.partition("\n")
    return options.split(), ptx


def test_the_options_are_those_of_the_project(compiled):
    """CuPy adds the architecture, and one option that only affects Thrust."""
    from setadam_cupy.launch import OPTIONS

    options, _ = compiled
    assert set(options) == {*OPTIONS, "-arch=compute_90", "--device-as-default-execution-space"}


def test_single_precision_is_ieee(compiled):
    """No flushing of subnormals, no approximate division or root: the adapter cupy:fused claims none."""
    _, ptx = compiled
    assert {f"{kind}_{dtype}" for kind in ("moments", "descend") for dtype in ("float16", "float32", "float64")} <= set(
        re.findall(r"\.visible \.entry (\w+)", ptx)
    )
    assert "div.rn.f32" in ptx
    assert [line.strip() for line in ptx.splitlines() if LOOSE.search(line)] == []
