"""Without CuPy or a device: clear errors. With a device: the kernels themselves, and what only a device can show."""

import subprocess
import sys

import numpy as np
import pytest

from setadam_cupy import SETAdam, launch


def test_importing_imports_no_cupy():
    code = "import sys, setadam_cupy; print('cupy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_without_cupy_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match='CuPy: pip install "cupy-cuda'):
        SETAdam([])


@pytest.mark.parametrize("found", ["none", "no driver"])
def test_without_a_device_that_is_said(cupy, monkeypatch, found):
    def count():
        if found == "no driver":
            raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
        return 0

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", count)
    with pytest.raises(RuntimeError, match="setadam_cupy needs a CUDA device, and CuPy finds none"):
        SETAdam([cupy.array(np.ones(3))])


def test_arrays_of_numpy_are_none_of_cupy(cupy):
    with pytest.raises(TypeError, match="param 'w' must be an array, got ndarray"):
        SETAdam({"w": np.ones(3)})


def test_a_gradient_on_another_device(cupy, monkeypatch):
    optimizer = SETAdam({"w": cupy.array(np.ones(3))})
    monkeypatch.setattr(
        "setadam_core.inplace.checks.device", lambda x: x.device
    )  # the stand-in's arrays are NumPy's to others
    with cupy.cuda.Device(1):
        there = cupy.array(np.ones(3))
    before = optimizer.params["w"].copy()
    with pytest.raises(ValueError, match="grad 'w' must be on its param's device"):
        optimizer.step({"w": there})
    assert np.array_equal(before, optimizer.params["w"])


def test_shared_memory_is_found_without_the_device(cupy):
    whole = cupy.array(np.ones((4, 6), np.float32))
    SETAdam([whole[:, ::2], whole[:, 1::2]])
    with pytest.raises(ValueError, match="param '0' and param '1' share memory"):
        SETAdam([whole[1:], whole[:2]])


def test_bfloat16_has_no_kernel_and_is_refused_at_once(cupy):
    """CuPy has the dtype, but a step would fail halfway."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    good, bad = cupy.array(np.ones(3, np.float32)), cupy.array(np.ones(3, ml_dtypes.bfloat16))
    message = "param 'b' must have one of the dtypes float16, float32, float64, complex64, complex128 .*, got bfloat16"
    for fused in (None, True, False):
        with pytest.raises(TypeError, match=message):
            SETAdam({"a": good, "b": bad}, fused=fused)
    optimizer = SETAdam({"a": good})
    with pytest.raises(TypeError, match=message):
        optimizer.add_param_group({"params": {"b": bad}})
    assert list(optimizer.params) == ["a"]


def test_a_kernel_that_does_not_compile_leaves_everything_as_it_was(cupy, monkeypatch):
    def fails(source, options):
        raise RuntimeError("no NVRTC")

    launch.module.cache_clear()
    monkeypatch.setattr(cupy.cuda.compiler, "compile_using_nvrtc", fails)
    params = [{"params": {"plain": cupy.array(np.ones(3))}, "fused": False}, {"params": {"w": cupy.array(np.ones(3))}}]
    optimizer = SETAdam(params)
    with pytest.raises(RuntimeError, match="no NVRTC"):
        optimizer.step({"plain": cupy.array(np.ones(3)), "w": cupy.array(np.ones(3))})
    assert all(np.all(p == 1) for p in optimizer.params.values())
    assert all(s["step"] == 0 and not s["exp_avg"].any() for s in optimizer.state.values())


def misaligned(cupy, n=4):
    """An array at an address from which no device can read a float32."""
    held = cupy.array(np.zeros(4 * n + 1, np.uint8))
    at = held.data
    return cupy.ndarray((n,), np.float32, memptr=type(at)(ptr=at.ptr + 1, owner=held), strides=(4,))


@pytest.mark.parametrize("which", ["param", "grad", "exp_avg", "exp_avg_sq"])
def test_an_address_that_the_device_cannot_read(cupy, which):
    message = f"{which}( of)? 'w' must lie at a multiple of 4 bytes, got the address 0x"
    if which == "param":
        with pytest.raises(ValueError, match=message):
            SETAdam({"w": misaligned(cupy)})
        return
    optimizer = SETAdam({"w": cupy.array(np.ones(4, np.float32))})
    grad = cupy.array(np.ones(4, np.float32))
    if which == "grad":
        grad = misaligned(cupy)
    else:
        optimizer.state["w"][which] = misaligned(cupy)
    with pytest.raises(ValueError, match=message):
        optimizer.step({"w": grad})
    assert np.all(optimizer.params["w"] == 1)


def test_wrong_calls_name_the_class(cupy):
    with pytest.raises(TypeError, match=r"^SETAdam.__init__\(\) missing 1 required positional argument: 'params'"):
        SETAdam()
    with pytest.raises(TypeError, match=r"^SETAdam.__init__\(\) got an unexpected keyword argument 'lrr'"):
        SETAdam([cupy.array(np.ones(3))], lrr=0.1)


@pytest.fixture
def device():
    return pytest.importorskip("cupy")


@pytest.mark.gpu
@pytest.mark.parametrize("path", ["CuPyFused", "CuPyPlain"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_conforms_on_the_device(device, path, dtype):
    from setadam_conformance.properties import PROPERTIES
    from setadam_conformance.running.backends import Source
    from setadam_conformance.running.plan import PROFILES, plan
    from setadam_conformance.running.runner import check
    from setadam_cupy import conformance

    adapter = getattr(conformance, path)("cuda:0")
    source = Source(adapter.name, adapter.framework, "none:none")
    for cell in plan({source: adapter.capabilities}, profile=PROFILES["quick"], dtypes=(dtype,)):
        result = check(PROPERTIES[cell.property], adapter, cell)
        assert result.status == "pass", (cell.property, result.reason, result.failure)


@pytest.mark.gpu
def test_a_step_allocates_nothing_and_waits_for_nothing(device):
    """A slow kernel is in the stream; a step that waited would return only after it."""
    params = {"w": device.ones((512, 512), "float32"), "b": device.ones(512, "float32")}
    grads = {name: device.ones_like(p) for name, p in params.items()}
    optimizer = SETAdam(params)
    optimizer.step(grads)
    pool = device.get_default_memory_pool()
    stream = device.cuda.Stream(non_blocking=True)
    device.cuda.Device().synchronize()
    used, free = pool.used_bytes(), pool.n_free_blocks()
    busy = device.RawKernel(
        'extern "C" __global__ void busy() { long long end = clock64() + 2000000000LL; while (clock64() < end); }',
        "busy",
    )
    with stream:
        busy((1,), (1,), ())
        optimizer.step(grads)
        assert not stream.done
    stream.synchronize()
    assert (pool.used_bytes(), pool.n_free_blocks()) == (used, free)
    assert bool((params["w"] < 1).all())


@pytest.mark.gpu
def test_a_step_on_every_device(device):
    if device.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one device on this machine")
    params = []
    for i in range(2):
        with device.cuda.Device(i):
            params.append(device.ones(5000, "float32"))
    SETAdam(params).step([p.copy() for p in params])
    assert np.array_equal(device.asnumpy(params[0]), device.asnumpy(params[1]))
