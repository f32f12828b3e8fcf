"""The kernels through Triton's real compiler, for a GPU that need not be there, and what its code says.

The interpreter has no types and no rounding of its own: what it cannot see is looked for here.
"""

import re
import subprocess

import pytest
import triton
from ptx import ROOT, loads_after
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from setadam_torch.paths.triton import kernels, launches

ARCHITECTURES = {75: "sm_75", 80: "sm_80", 90: "sm_90a", 100: "sm_100a", 120: "sm_120a"}
DTYPES = ["float64", "float32", "bfloat16", "float16"]
TABLE = {"table": "*i64", "owner": "*i64", "tasks": "*i64", "layers": "i32", "chunks": "i32"}
RESULTS = {"partials": "*fp64", "arrived": "*i32", "tickets": "*i32", "coefficients": "*fp64"}
NUMBERS = dict.fromkeys(["beta1", "beta2", "decay", "lr", "log_beta1", "log_beta2", "eps", "tau"], "fp64")
REQUIRED = {"gammas": "*fp64", "lows": "*fp64"}
OPTIONAL = {"found_inf": "*fp32", "grad_scale": "*fp32", "lr_at": "*fp32", "parts": "*fp64"}
# All dtypes for one architecture, and the two that most parameters have for all.
COMPILED = [(dtype, 90) for dtype in DTYPES]
COMPILED += [(dtype, sm) for dtype in ("float32", "bfloat16") for sm in ARCHITECTURES if sm != 90]


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))
        yield


def compiled(name, dtype, sm=90, given=(), **options):
    """The PTX of a kernel as `launches` launches it, with these of its optional arguments. ptxas has taken it."""
    fn = getattr(kernels, f"{name}_kernel")
    compute = "float64" if dtype == "float64" else "float32"
    constants = {"PARAM": kernels.DTYPES[dtype], "COMPUTE": kernels.DTYPES[compute], "CHUNK": 4096}
    constants |= {"LANES": launches.LANES, "MAXIMIZE": False, "COUPLED": False, "DECOUPLED": False, "POWER": 2.0}
    constants |= {"EPS_INSIDE": True, "COUNT": True}
    constants |= dict.fromkeys(OPTIONAL.keys() - set(given)) | options
    types = TABLE | RESULTS | NUMBERS | REQUIRED | {arg: OPTIONAL[arg] for arg in given}
    signature = {arg: types.get(arg, "constexpr") for arg in fn.arg_names}
    assert all((fn.params[i].annotation_type or "fp64") == "fp64" for i in range(len(fn.params)))
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(
        fn, signature, {arg: constants[arg] for arg, kind in signature.items() if kind == "constexpr"}, aligned
    )
    return triton.compile(source, target=GPUTarget("cuda", sm, 32), options=launches.CONTRACT).asm["ptx"]


def registers(ptx, sm, tmp_path, spilled=0):
    """Registers of a thread, after making sure that no more bytes than these are spilled to memory."""
    (tmp_path / "kernel.ptx").write_text(ptx)
    command = [get_ptxas(sm).path, "-v", f"--gpu-name={ARCHITECTURES[sm]}", "kernel.ptx", "-o", "kernel.cubin"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    assert int(re.search(r"(\d+) bytes spill loads", said)[1]) <= spilled
    return int(re.search(r"Used (\d+) registers", said)[1])


def rounds_correctly(ptx):
    """No approximate division or root, no flushing of subnormals, in single precision."""
    loose = r"(div|sqrt|rcp|rsqrt)\.(approx|full)[\w.]*f32|(add|sub|mul|fma|div|sqrt)[\w.]*\.ftz[\w.]*f32"
    return not re.search(loose, ptx)


def words(ptx, op):
    """How many loads or stores of 16 bytes, of 8 that are two 4-byte words, and of less or of single numbers."""
    sizes = re.findall(rf"\b{op}\.global[\w.:]*?\.(v4\.[bf]32|v2\.[bf]64|v2\.[bf]32|[bf]\d+)\b", ptx)
    return [sum(size in kinds for size in sizes) for kinds in (("v4.b32", "v4.f32", "v2.b64", "v2.f64"), ("v2.b32",))]


def atomics(ptx):
    return re.findall(r"\b((?:atom|red)\.[\w.:]+)", ptx)


@pytest.mark.parametrize(("dtype", "sm"), COMPILED)
def test_moments(dtype, sm, tmp_path):
    ptx = compiled("moments", dtype, sm)
    assert rounds_correctly(ptx)
    assert "fma.rn.f64" in ptx  # Σv² in double
    # The chunks of a layer that are done are counted: earlier writes come before it, and later reads after it.
    assert [x for x in atomics(ptx) if "add" in x] == atomics(ptx)
    (counted,) = atomics(ptx)
    assert "acq_rel" in counted
    assert "gpu" in counted
    # g, m and v in words, and m and v if g is between two words; no words at the edges, whose coordinates are few.
    # Of double, m and v are 32 bytes a thread, and v is read again.
    expected = {"float64": [2 * (3 + 1) + 2 * (2 + 1), 0], "float32": [3 + 2, 0]}.get(dtype, [2 + 2, 1])
    assert words(ptx, "ld") == expected
    assert words(ptx, "st") == [{"float64": 8}.get(dtype, 4), 0]
    if dtype != "float64":
        assert ptx.count("div.rn.f64") == 3  # for each layer: γ, and two bias corrections
    # A multiprocessor has 65,536: with 64, eight blocks of 128 threads fit, with 72 seven.
    assert registers(ptx, sm, tmp_path) <= {"float64": 96, "float32": 64}.get(dtype, 72)


@pytest.mark.parametrize(("dtype", "sm"), COMPILED)
def test_descend(dtype, sm, tmp_path):
    ptx = compiled("descend", dtype, sm)
    kind = "f64" if dtype == "float64" else "f32"
    assert rounds_correctly(ptx)
    assert atomics(ptx) == []
    assert f"sqrt.rn.{kind}" in ptx
    assert f"div.rn.{kind}" in ptx
    assert f"fma.rn.{kind}" in ptx
    short = {"bfloat16": "bf16", "float16": "f16"}.get(dtype)
    if short is not None and sm >= 80:  # the older one has no instruction for bfloat16
        assert re.search(rf"cvt\.rn\.{short}(x2)?\.f32", ptx)  # to nearest, not truncated
    assert loads_after(ROOT, ptx) == []
    assert words(ptx, "ld") == {"float64": [2 * (3 + 2), 0], "float32": [3 + 2, 0]}.get(dtype, [2 + 2, 1])
    assert registers(ptx, sm, tmp_path) <= (72 if dtype == "float64" else 64 if sm == 75 else 48)


def test_a_late_load_is_found():
    late = "$L__BB0_1:\n ld.global.f32 %f1;\n sqrt.rn.f32 %f2;\n ld.global.v4.f32 %f3;\n"
    assert loads_after(ROOT, late + "$L__BB0_2:\n ld.global.f32 %f4;") == ["ld.global.v4.f32"]


@pytest.mark.parametrize(
    ("name", "dtype", "given", "options"),
    [
        ("moments", "bfloat16", ["found_inf", "grad_scale", "parts"], {"MAXIMIZE": True, "COUPLED": True}),
        ("moments", "float64", ["lr_at"], {"COUPLED": True, "POWER": 4.0, "EPS_INSIDE": False}),
        ("moments", "float32", ["found_inf", "lr_at"], {"POWER": 0.0, "MAXIMIZE": True}),
        ("descend", "float16", ["found_inf"], {"DECOUPLED": True, "EPS_INSIDE": False, "COUNT": False}),
        ("coefficients", "float32", ["found_inf", "lr_at"], {}),
        ("coefficients", "float64", [], {"EPS_INSIDE": False}),
        ("step", "float32", ["found_inf", "grad_scale"], {"COUPLED": True}),
        ("step", "float64", ["lr_at"], {"DECOUPLED": True}),
    ],
)
def test_every_option_compiles(name, dtype, given, options, tmp_path):
    ptx = compiled(name, dtype, 90, given, **options)
    assert rounds_correctly(ptx)
    registers(ptx, 90, tmp_path)


@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_one_launch(sm, tmp_path):
    """A ticket, the chunks that are done, the layer that is ready, whether it is, and the tasks that are done."""
    ptx = compiled("step", "float32", sm)
    assert rounds_correctly(ptx)
    order = [re.search(r"relaxed|acq_rel|acquire|release", x)[0] for x in atomics(ptx)]
    waits = re.findall(r"\bld\.(?:global\.gpu\.acquire|acquire\.gpu)\b", ptx)  # what an addition of 0 may become
    assert order.count("relaxed") == order.count("release") == 1
    assert order.count("acq_rel") == 2
    assert order.count("acquire") + len(waits) == 1
    assert registers(ptx, sm, tmp_path, spilled=32) <= 72  # some numbers that a block needs once
