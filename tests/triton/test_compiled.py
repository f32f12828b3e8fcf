"""The kernels through Triton's real compiler, for a GPU that need not be there, and what its code says.

The interpreter has no types and no rounding of its own: what it cannot see is looked for here.
"""

import re
import subprocess

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from setadam_torch.paths.triton import kernels, launches

HOPPER = GPUTarget("cuda", 90, 32)
DTYPES = ["float64", "float32", "bfloat16", "float16"]
TABLE = {"table": "*i64", "owner": "*i64", "layers": "i32", "chunks": "i32"}
RESULTS = {"partials": "*fp64", "parts": "*fp64", "coefficients": "*fp64"}
NUMBERS = dict.fromkeys(["beta1", "beta2", "decay", "lr", "log_beta1", "log_beta2", "eps", "tau"], "fp64")
OPTIONAL = {"found_inf": "*fp32", "grad_scale": "*fp32", "gammas": "*fp64", "lows": "*fp64", "lr_at": "*fp32"}


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))
        yield


def compiled(name, dtype, given=(), warps=4, lanes=launches.LANES, **options):
    """A kernel as `launches` launches it, with these of its optional arguments."""
    fn = getattr(kernels, f"{name}_kernel")
    compute = "float64" if dtype == "float64" else "float32"
    constants = {"PARAM": kernels.DTYPES[dtype], "COMPUTE": kernels.DTYPES[compute], "CHUNK": 4096, "LANES": lanes}
    constants |= {"MAXIMIZE": False, "COUPLED": False, "DECOUPLED": False, "POWER": 2.0, "EPS_INSIDE": True}
    constants |= dict.fromkeys(OPTIONAL.keys() - set(given)) | options
    types = TABLE | RESULTS | NUMBERS | {arg: OPTIONAL[arg] for arg in given}
    signature = {arg: types.get(arg, "constexpr") for arg in fn.arg_names}
    assert all((fn.params[i].annotation_type or "fp64") == "fp64" for i in range(len(fn.params)))
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(
        fn, signature, {arg: constants[arg] for arg, kind in signature.items() if kind == "constexpr"}, aligned
    )
    return triton.compile(source, target=HOPPER, options={"num_warps": warps, **launches.CONTRACT}).asm["ptx"]


def registers(ptx, tmp_path):
    """Registers of a thread, after making sure that none is spilled to memory."""
    (tmp_path / "kernel.ptx").write_text(ptx)
    command = [get_ptxas(HOPPER.arch).path, "-v", "--gpu-name=sm_90a", "kernel.ptx", "-o", "kernel.cubin"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in said
    return int(re.search(r"Used (\d+) registers", said)[1])


def rounds_correctly(ptx):
    """No approximate division or root, no flushing of subnormals, in single precision."""
    loose = r"(div|sqrt|rcp|rsqrt)\.(approx|full)[\w.]*f32|(add|sub|mul|fma|div|sqrt)[\w.]*\.ftz[\w.]*f32"
    return not re.search(loose, ptx)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments(dtype, tmp_path):
    ptx = compiled("moments", dtype)
    assert rounds_correctly(ptx)
    assert "fma.rn.f64" in ptx  # Σv² in double
    assert not re.search(r"\b(atom|red)\.", ptx)
    if dtype != "float64":
        words = re.findall(r"ld\.global[\w.:]*\.v4\.[bf]32", ptx)
        assert len(words) == (3 if dtype == "float32" else 2)  # g (two 4-byte words, if it is 16-bit), m, v
        assert len(re.findall(r"st\.global[\w.:]*\.v4\.[bf]32", ptx)) == 2
    # 512 threads and more share a multiprocessor's 65,536 registers, so that enough loads are under way.
    assert registers(ptx, tmp_path) <= 128


@pytest.mark.parametrize("dtype", DTYPES)
def test_descend(dtype, tmp_path):
    ptx = compiled("descend", dtype)
    kind = "f64" if dtype == "float64" else "f32"
    assert rounds_correctly(ptx)
    assert f"sqrt.rn.{kind}" in ptx
    assert f"div.rn.{kind}" in ptx
    assert f"fma.rn.{kind}" in ptx
    short = {"bfloat16": "bf16", "float16": "f16"}.get(dtype)
    assert short is None or re.search(rf"cvt\.rn\.{short}(x2)?\.f32", ptx)  # to nearest, not truncated
    assert registers(ptx, tmp_path) <= 96


@pytest.mark.parametrize(
    ("name", "dtype", "given", "options"),
    [
        ("moments", "bfloat16", ["found_inf", "grad_scale"], {"MAXIMIZE": True, "COUPLED": True}),
        ("descend", "float16", ["found_inf"], {"DECOUPLED": True, "EPS_INSIDE": False}),
        ("parts", "float32", ["found_inf"], {"lanes": 32, "warps": 1}),
        ("coefficients", "float32", ["found_inf", "lr_at"], {"lanes": 2048, "warps": 16}),
        ("coefficients", "float64", ["gammas", "lows"], {"lanes": 32, "warps": 1, "POWER": 0.0}),
        ("coefficients", "float64", [], {"lanes": 256, "warps": 2, "POWER": 4.0, "EPS_INSIDE": False}),
    ],
)
def test_every_option_compiles(name, dtype, given, options, tmp_path):
    ptx = compiled(name, dtype, given, **options)
    assert rounds_correctly(ptx)
    assert not re.search(r"\b(atom|red)\.", ptx)
    registers(ptx, tmp_path)
