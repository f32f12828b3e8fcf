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
cupy.cuda.compiler._get_arch_for_options_for_nvrtc = lambda arch=None: (f"-arch=compute_{sys.argv[1]}", "ptx")
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

ARCHITECTURES = ("75", "80", "90", "100", "120")
# Of single precision; double precision's division starts from an approximation that is called rcp.approx.ftz.f64.
LOOSE = re.compile(r"(div|sqrt|rcp|rsqrt)\.(approx|full)[\w.]*f32|\w+[\w.]*\.ftz[\w.]*f(32|16)")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def compiled(request):
    """The architecture and the options that NVRTC received, and the PTX."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, request.param], capture_output=True, text=True, env=dict(os.environ)
    )
    if "libnvrtc" in run.stderr:
        pytest.skip(f"CuPy finds no NVRTC: {run.stderr.splitlines()[-1]}")
    assert run.returncode == 0, run.stderr
    options, _, ptx = run.stdout.partition("\n")
    return request.param, options.split(), ptx


def test_the_options_are_those_of_the_project(compiled):
    """CuPy adds the architecture, and one option that only affects Thrust."""
    from setadam_cupy.launch import OPTIONS

    architecture, options, _ = compiled
    assert set(options) == {*OPTIONS, f"-arch=compute_{architecture}", "--device-as-default-execution-space"}


def test_single_precision_is_ieee(compiled):
    """No flushing of subnormals, no approximate division or root: the adapter cupy:fused claims none."""
    _, _, ptx = compiled
    assert {f"{kind}_{dtype}" for kind in ("moments", "descend") for dtype in ("float16", "float32", "float64")} <= set(
        re.findall(r"\.visible \.entry (\w+)", ptx)
    )
    assert "div.rn.f32" in ptx
    assert [line.strip() for line in ptx.splitlines() if LOOSE.search(line)] == []


def kernels(ptx):
    """Each kernel's PTX, by its name."""
    _, *found = re.split(r"\.visible \.entry (\w+)", ptx)
    return dict(zip(found[::2], found[1::2], strict=True))


@pytest.mark.parametrize(("dtype", "word"), [("float16", "v4"), ("float32", "v4"), ("float64", "v2")])
def test_what_a_thread_needs_is_loaded_as_words_before_the_first_root(compiled, dtype, word):
    """m, v, the gradient and with a coupled decay θ; then v, m and θ. So one wait serves several coordinates."""
    _, _, ptx = compiled
    for name, loads, stores in (("moments", 4, 2), ("descend", 3, 1)):
        text = kernels(ptx)[f"{name}_{dtype}"]
        assert len(re.findall(rf"ld\.global\.{word}\.", text)) == loads
        assert len(re.findall(rf"st\.global\.{word}\.", text)) >= stores  # each branch may have its own
        for block in re.split(r"^\$L__BB\w+:", text, flags=re.MULTILINE):
            computed = re.search(r"(sqrt|div)\.rn\.f|st\.global", block)
            assert not computed or f"ld.global.{word}" not in block[computed.end() :]


@pytest.mark.parametrize("kernel", ["moments", "descend"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_loads_of_memory_that_begins_in_the_middle_of_a_word_come_first_too(compiled, kernel, dtype):
    """Before the first store, so that the assembler may begin with them all."""
    _, _, ptx = compiled
    for block in re.split(r"^\$L__BB\w+:", kernels(ptx)[f"{kernel}_{dtype}"], flags=re.MULTILINE):
        stored = re.search(r"st\.global", block)
        assert not stored or "ld.global" not in block[stored.end() :]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_tree_of_float_layers_divides_nothing(compiled, dtype):
    """Their sums have one scale. cos² is a product of two quotients, and is divided by 1 - β₂ᵗ once."""
    _, _, ptx = compiled
    assert len(re.findall(r"div\.rn\.f64", kernels(ptx)[f"moments_{dtype}"])) == 3
    assert "div.rn.f64" not in kernels(ptx)[f"descend_{dtype}"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_one_operation_does_not_depend_on_the_place(compiled, dtype):
    """In a word of aligned memory, in one that is not, and in the tail: `fused` of the source, no more and no fewer."""
    _, _, ptx = compiled
    moments, descend = (
        re.findall(r"\bfma\.rn\.f32", kernels(ptx)[f"{name}_{dtype}"]) for name in ("moments", "descend")
    )
    assert len(descend) == 1 + 2 * (4 + 4 + 1)  # min w; each coordinate's w and θ
    # m, v, and with a coupled decay g: in one body, or in one with it and one without.
    assert len(moments) in (3 * (4 + 4 + 1), (2 + 3) * (4 + 4 + 1))
