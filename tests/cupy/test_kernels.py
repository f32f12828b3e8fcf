"""kernels.cu, compiled for the CPU behind CuPy's stand-in: compared with the oracle, and launched correctly."""

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from setadam_conformance.properties import PROPERTIES
from setadam_conformance.running.backends import Source
from setadam_conformance.running.plan import PROFILES, plan
from setadam_conformance.running.runner import check
from setadam_core import Hyperparameters, init, step
from setadam_cupy import SETAdam, launch

SOURCE = files("setadam_cupy").joinpath("kernels.cu").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "dtype"),
    [("CuPyFused", "float64"), ("CuPyFused", "float32"), ("CuPyFused", "float16"), ("CuPyPlain", "float32")],
)
def test_conforms(cupy, path, dtype):
    """The kit's properties, each with a few examples, except the expensive ones on large layers."""
    from setadam_cupy import conformance

    adapter = getattr(conformance, path)("cuda:0")
    source = Source(adapter.name, adapter.framework, "none:none")
    cells = plan({source: adapter.capabilities}, profile=PROFILES["quick"], dtypes=(dtype,), max_examples=3)
    assert len(cells) > 10
    for cell in cells:
        if PROPERTIES[cell.property].share <= 0.1:
            continue
        result = check(PROPERTIES[cell.property], adapter, cell)
        assert result.status == "pass", (cell.property, result.reason, result.failure)


def random(seed, shape, dtype="float32", scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def run(cupy, param, grads, axes=None, **options):
    """θ after a step for each gradient, by the kernels and by the specification in float64."""
    got = cupy.array(param)
    optimizer = SETAdam([got], layer_axes=axes, **options)
    wide = param.astype(np.float64)
    state, hp = init(wide), Hyperparameters(**options)
    for g in grads:
        optimizer.step([cupy.array(g)])
        wide, state = step(wide, g.astype(np.float64), state, hp, layer_axes=axes)
    return np.asarray(got), wide


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 5000, 1_100_000])
def test_layers_of_one_and_of_many_blocks(cupy, size):
    """The last block merges the parts of a layer."""
    got, expected = run(cupy, random(0, size), [random(1, size), random(2, size)], lr=0.1)
    # θ's rounding, and some 20 roundings of a step, which is below 0.1·(1 + 1)/(1 - τ) in two steps.
    np.testing.assert_allclose(got, expected, rtol=2 * 2.0**-24, atol=2 * 20 * 2.0**-24 * 0.4)
    name, _, blocks = cupy.log.launches[0]
    assert (name, blocks) == ("moments_float32", min(launch.MAX_BLOCKS, -(-size // launch.PER_BLOCK)))


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1e-16), ("float32", 1e12), ("float64", 1e-100), ("float64", 1e100)]
)
def test_gamma_is_free_of_scale(cupy, dtype, scale):
    """v is a normal number at each scale, and Σv² leaves the dtype."""
    param, grad = random(0, 5000, dtype), random(1, 5000, dtype, scale)
    small, large = (SETAdam([cupy.array(param)]) for _ in "ab")
    small.step([cupy.array(grad)])
    large.step([cupy.array((grad / scale).astype(dtype))])
    (one,), (two,) = (x.layer_statistics().values() for x in (small, large))
    assert 0 < one["gamma"] < 0.5
    assert one["gamma"] == pytest.approx(two["gamma"], rel=1e-5)
    device = small._scratch_of(0).get("results", 2, np.float64)
    # 1e-5: the gradients, and v in float32, are rounded anew at the other scale.
    assert device[0] * (1 - 0.999) == pytest.approx(one["gamma"], rel=1e-5)


def test_two_launches_for_64_layers(cupy):
    shapes = [(3, 4), (5,), ()] * 30
    params = [cupy.array(random(i, shape)) for i, shape in enumerate(shapes)]
    SETAdam(params).step([cupy.array(random(i, shape)) for i, shape in enumerate(shapes)])
    assert [name for name, _, _ in cupy.log.launches] == ["moments_float32", "descend_float32"] * 2
    assert [blocks for _, _, blocks in cupy.log.launches] == [64, 64, 26, 26]


def test_stacked_layers_are_layers_of_one_launch(cupy):
    got, expected = run(cupy, random(0, (7, 3, 5)), [random(1, (7, 3, 5))], axes=(1, 2), lr=0.1)
    np.testing.assert_allclose(got, expected, rtol=2.0**-23, atol=20 * 2.0**-24 * 0.2)
    assert cupy.log.launches == [("moments_float32", 0, 7), ("descend_float32", 0, 7)]


def test_nothing_is_allocated_after_the_first_step(cupy):
    whole = cupy.array(random(0, (6, 8)))
    params = {"packed": cupy.array(random(1, (70, 80))), "gaps": whole[:, ::2], "turned": cupy.array(random(2, (4, 5)))}
    grads = {name: cupy.array(random(3, p.shape)) for name, p in params.items()}
    grads["turned"] = cupy.array(random(3, (5, 4))).T
    optimizer = SETAdam(params, fused=True)
    optimizer.step(grads)
    before, untouched = cupy.log.allocations, np.asarray(whole)[:, 1::2].copy()
    for _ in range(3):
        optimizer.step(grads)
    assert cupy.log.allocations == before
    assert np.array_equal(np.asarray(whole)[:, 1::2], untouched)


@pytest.mark.parametrize("turned", [False, True])
def test_gaps_and_order_do_not_matter(cupy, turned):
    param, grad = random(0, (6, 8)), random(1, (6, 8))
    packed, whole = cupy.array(param), cupy.array(np.zeros((12, 24), np.float32))
    gaps = whole[::2, ::3]
    gaps[...] = param
    if turned:
        gaps = cupy.array(np.asfortranarray(param), order="K")
    one, two = SETAdam([packed], lr=0.1), SETAdam([gaps], lr=0.1)
    for _ in range(2):
        one.step([cupy.array(grad)])
        two.step([cupy.array(grad)])
    # Sums in another order where the axes are turned: as in test_layers_of_one_and_of_many_blocks.
    np.testing.assert_allclose(np.asarray(gaps), np.asarray(packed), rtol=2.0**-23, atol=40 * 2.0**-24 * 0.4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("begins", [(1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 1, 1), (0, 0, 0, 2), (3, 2, 1, 0)])
@pytest.mark.parametrize("size", [3, 4, 5, 4099])
def test_memory_that_begins_in_the_middle_of_a_word(cupy, dtype, begins, size):
    """The bits are those of aligned memory: neither a coordinate's rounding nor the order of γ's sums depends on it."""

    def stepped(begins):
        arrays = []
        for k, begin in enumerate(begins):
            whole = np.zeros(size + 16, "float32" if k > 1 and dtype == "float16" else dtype)
            begin += -(whole.ctypes.data // whole.itemsize) % 8  # of 8 coordinates
            array = cupy.array(whole, copy=False)[begin : begin + size]
            array[...] = np.abs(random(k, size)) if k == 3 else random(k, size)
            arrays.append(array)
        item = launch.Item(arrays, 1)
        launch.step_layers(cupy, 0, launch.Scratch(cupy), [item], dtype, 3, Hyperparameters(weight_decay=0.1))
        return [np.asarray(x).tobytes() for x in arrays]

    assert stepped(begins) == stepped((0, 0, 0, 0))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_equal_coordinates_become_equal(cupy, dtype):
    """In whole words and in the last coordinates."""
    params = [cupy.array(np.full(4099, 0.7, dtype)) for _ in "ab"]
    optimizer = SETAdam(params, weight_decay=0.1)
    for value in (0.3, -0.1):
        optimizer.step([cupy.array(np.full(4099, value, dtype)) for _ in params])
    assert all(len(np.unique(np.asarray(p))) == 1 for p in params)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2)])
def test_interleaved_layers_are_kernels_too(cupy, axes):
    """Through scratch: the specification on CuPy's own kernels would flush subnormals."""
    got, expected = run(cupy, random(0, (4, 3, 5)), [random(1, (4, 3, 5)), random(2, (4, 3, 5))], axes=axes, lr=0.1)
    np.testing.assert_allclose(got, expected, rtol=2 * 2.0**-24, atol=2 * 20 * 2.0**-24 * 0.4)
    assert [name for name, _, _ in cupy.log.launches] == ["moments_float32", "descend_float32"] * 2


def test_a_step_on_each_device(cupy):
    with cupy.cuda.Device(1):
        there, g = cupy.array(random(0, 5)), cupy.array(random(1, 5))
    here = cupy.array(random(0, 5))
    optimizer = SETAdam({"here": here, "there": there})
    assert optimizer.state["there"]["exp_avg"].device.id == 1
    optimizer.step({"here": cupy.array(random(1, 5)), "there": g})
    assert [(name, device) for name, device, _ in cupy.log.launches] == [
        ("moments_float32", 0), ("descend_float32", 0), ("moments_float32", 1), ("descend_float32", 1),
    ]  # fmt: skip
    assert np.array_equal(np.asarray(here), np.asarray(there))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("power", [2, 0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_finite_reaches_its_layer_alone(cupy, bad, power, dtype):
    grads = [random(1, 2000, dtype), random(2, 2000, dtype)]
    grads[0][1500] = bad
    params = [cupy.array(random(0, 2000, dtype)) for _ in "ab"]
    SETAdam(params, cos_power=power).step([cupy.array(g) for g in grads])  # without a warning
    with np.errstate(invalid="ignore"):
        reference, _ = step(random(0, 2000, dtype), grads[0], init(grads[0]), Hyperparameters(cos_power=power))
    assert np.array_equal(np.isnan(np.asarray(params[0])), np.isnan(reference))
    assert np.isnan(reference).sum() >= 1
    assert np.all(np.isfinite(np.asarray(params[1])))


def test_structs_are_those_of_the_kernels(cupy):
    library = launch.module(cupy, 0).library
    assert library.size_of_table() == launch.TABLE.itemsize
    assert library.size_of_step() == launch.STEP.itemsize
    assert library.most_layers() == launch.LAYERS
    assert launch.TABLE.itemsize + launch.STEP.itemsize + 3 * 8 <= 4096  # what a launch can be given
    for struct, dtype in (("Table", launch.TABLE), ("Step", launch.STEP)):
        body = re.sub(r"//.*", "", re.search(rf"struct {struct} {{(.*?)}};", SOURCE, re.DOTALL)[1])
        assert tuple(re.findall(r"(\w+)(?:\[LAYERS\])?[,;]", body)) == dtype.names


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_nvcc_takes_it(architecture, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on this machine")
    path = Path(str(files("setadam_cupy").joinpath("kernels.cu")))
    flags = ["-std=c++17", f"-arch={architecture}", "-ptx", "-Werror", "all-warnings"]
    subprocess.run([nvcc, *flags, str(path), "-o", str(tmp_path / "kernels.ptx")], check=True)
