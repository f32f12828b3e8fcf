"""The namespaces that the specification is tested under: every one that is installed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import setadam_core
from setadam_conformance.cases.case import Case
from setadam_conformance.judging.judge import Verdict, judge
from setadam_conformance.protocol import Capabilities, LayerState
from setadam_core import Hyperparameters, State

STANDARD = ("float64", "float32", "complex128", "complex64")
WITH_HALF = (*STANDARD, "float16", "bfloat16")


@dataclass(frozen=True)
class Namespace:
    """A namespace of arrays, its conversion from and to NumPy, and how to run a function under it."""

    name: str
    array: Callable[[np.ndarray], Any]
    numpy: Callable[[Any], np.ndarray]
    dtypes: tuple[str, ...]
    claims: Capabilities
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function
    eager: bool = True

    def step(self, *args: Any, **kwargs: Any) -> tuple[Any, State]:
        return self.compiled(setadam_core.step)(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> setadam_core.Trace:
        return self.compiled(setadam_core.trace)(*args, **kwargs)

    def state(self, m: np.ndarray, v: np.ndarray, t: Any) -> State:
        return State(self.array(m), self.array(v), t)

    def judge(self, case: Case, hp: Hyperparameters | None = None, t: Any = None, **claims: Any) -> Verdict:
        """One step of each layer of the case, judged by the conformance kit's oracle."""
        hp = hp or Hyperparameters(**case.hp)
        params, states = [], []
        for layer in case.layers:
            state = self.state(layer.m, layer.v, case.t if t is None else t)
            param, new = self.step(self.array(layer.param), self.array(layer.grad), state, hp, layer_axes=layer.axes)
            params.append(self.numpy(param))
            states.append(LayerState(self.numpy(new.m), self.numpy(new.v), int(new.t)))
            assert states[-1].t == case.t + 1
        return judge(case, params, states, Capabilities(**{**self.claims.__dict__, **claims}))


def _claims(**more: Any) -> Capabilities:
    return Capabilities(dtypes=("float64", "float32", "float16", "bfloat16"), **more)


@contextmanager
def _numpy() -> Iterator[Namespace]:
    yield Namespace("numpy", partial(np.array, copy=True), np.asarray, WITH_HALF, _claims())


@contextmanager
def _strict() -> Iterator[Namespace]:
    """With every optional feature off, so that only the part common to all namespaces remains."""
    xp = pytest.importorskip("array_api_strict")
    with xp.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()):
        yield Namespace("strict", partial(xp.asarray, copy=True), np.from_dlpack, STANDARD, _claims())


@contextmanager
def _dask() -> Iterator[Namespace]:
    dask = pytest.importorskip("dask")
    da = pytest.importorskip("dask.array")

    def array(x: np.ndarray) -> Any:
        """In two chunks, so that reductions have to combine."""
        return da.from_array(x.copy(), chunks=((x.shape[0] + 1) // 2, *x.shape[1:]) if x.size > 1 else -1)

    with dask.config.set(scheduler="synchronous"):
        yield Namespace("dask", array, lambda x: np.asarray(x.compute()), WITH_HALF, _claims())


@contextmanager
def _torch() -> Iterator[Namespace]:
    torch = pytest.importorskip("torch")

    def array(x: np.ndarray) -> Any:
        if x.dtype == ml_dtypes.bfloat16:  # torch does not know ml_dtypes; the bits are the same
            return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(x.copy())

    def numpy(x: Any) -> np.ndarray:
        if x.dtype is torch.bfloat16:
            return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return x.resolve_conj().numpy()

    yield Namespace("torch", array, numpy, WITH_HALF, _claims())


@contextmanager
def _jax() -> Iterator[Namespace]:
    """Operation by operation. XLA flushes subnormals on the CPU."""
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        yield Namespace("jax", jax.device_put, np.asarray, WITH_HALF, _claims(flushes_subnormals=True, compiles=True))


@contextmanager
def _jax_jit() -> Iterator[Namespace]:
    jax = pytest.importorskip("jax")
    compiled = partial(jax.jit, static_argnames=("hp", "layer_axes"))
    claims = _claims(flushes_subnormals=True, recomputes_moments=True, traced_t=True, compiles=True)
    with jax.enable_x64(True):
        yield Namespace("jax-jit", jax.device_put, np.asarray, WITH_HALF, claims, compiled, eager=False)


@contextmanager
def _cupy() -> Iterator[Namespace]:
    cupy = pytest.importorskip("cupy")
    dtypes = (*STANDARD, "float16")
    # CuPy compiles its own kernels with -ftz=true.
    yield Namespace("cupy", cupy.asarray, cupy.asnumpy, dtypes, _claims(reduction="any", flushes_subnormals=True))


_NAMESPACES = {
    "numpy": _numpy,
    "strict": _strict,
    "dask": _dask,
    "torch": _torch,
    "jax": _jax,
    "jax-jit": _jax_jit,
    "cupy": _cupy,
}


@pytest.fixture(
    scope="module",  # one context around each module's tests, and none that Hypothesis would have to reset
    params=[pytest.param(name, marks=[pytest.mark.gpu] if name == "cupy" else []) for name in _NAMESPACES],
)
def ns(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """Each installed namespace in turn."""
    with _NAMESPACES[request.param]() as namespace:
        yield namespace


@pytest.fixture(scope="session")
def numpy_ns() -> Iterator[Namespace]:
    """Only NumPy, for tests that need not run under each namespace."""
    with _numpy() as namespace:
        yield namespace


@pytest.fixture(scope="session")
def layers() -> SimpleNamespace:
    """Makers of layers, deterministic in their arguments."""
    return SimpleNamespace(normal=normal, state=running_state)


def normal(shape: tuple[int, ...], dtype: str = "float64", *, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal numbers of this dtype, real or complex."""
    rng = np.random.default_rng([seed, *shape])
    x = scale * rng.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * scale * rng.standard_normal(shape)
    return np.asarray(x).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def running_state(param: np.ndarray, *, seed: int = 1, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Moments as during a run, with param's real shape and compute dtype."""
    zero = setadam_core.init(param).m
    m = normal(zero.shape, str(zero.dtype), seed=seed, scale=scale)
    v = normal(zero.shape, str(zero.dtype), seed=seed + 1, scale=scale) ** 2
    return m, np.asarray(v)
