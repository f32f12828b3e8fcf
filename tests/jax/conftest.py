"""What the JAX tests share: one small tree, the specification run in float64 as its reference, and compiled programs.

Three quarters of these tests' time is XLA's, for programs that are mostly the same from test to test and from run to
run. So they are kept in pytest's cache: for each worker by itself, as JAX writes such files without a lock, and for
each processor, as they are machine code.
"""

import hashlib
import os
import platform
from pathlib import Path

import jax
import numpy as np
import pytest

from setadam_core import Hyperparameters, init, step

SHAPES = {"b": (5,), "w": (3, 4)}


class Reference:
    """setadam_core under NumPy in float64, with exactly JAX's inputs."""

    @staticmethod
    def tree(seed, shapes=SHAPES, dtype=np.float32):
        """Normal values in dtype, away from 0 so that relative errors mean something."""
        rng = np.random.default_rng(seed)
        signs = {k: rng.choice([-1.0, 1.0], shape) for k, shape in shapes.items()}
        return {k: (s * rng.uniform(0.25, 2.0, s.shape)).astype(dtype) for k, s in signs.items()}

    @staticmethod
    def run(params, gradients, layer_axes=None, **hp):
        """θ, m and v after one step for each tree of gradients."""
        checked = Hyperparameters(**hp)
        wide = {k: np.asarray(p, np.complex128 if np.iscomplexobj(p) else np.float64) for k, p in params.items()}
        states = {k: init(p) for k, p in wide.items()}
        for grads in gradients:
            for k in wide:
                grad = np.asarray(grads[k]).astype(wide[k].dtype)
                axes = layer_axes(k) if layer_axes else None
                wide[k], states[k] = step(wide[k], grad, states[k], checked, layer_axes=axes)
        return wide, {k: s.m for k, s in states.items()}, {k: s.v for k, s in states.items()}


def processor():
    """A short name for the instructions that this machine has."""
    listed = Path("/proc/cpuinfo")
    features = (
        [x for x in listed.read_text().splitlines() if x.startswith(("flags", "Features"))] if listed.exists() else []
    )
    return hashlib.sha256(repr((platform.machine(), platform.processor(), features[:1])).encode()).hexdigest()[:12]


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(pytestconfig, tmp_path_factory):
    """The folder where compiled programs are kept."""
    name = f"jax-{processor()}-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    kept = pytestconfig.pluginmanager.hasplugin("cacheprovider")
    folder = pytestconfig.cache.mkdir(name) if kept else tmp_path_factory.mktemp(name)
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(autouse=True)
def no_rank_is_promoted():
    """Every test here runs as for a user who forbids it. That it works where it is allowed needs no test."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def reference():
    return Reference


@pytest.fixture(scope="session")
def assert_close():
    def check(got, expected, *, ulps, dtype=np.float32, scale=0.0):
        """|got - expected| ≤ ulps · u · (|expected| + scale), u the unit roundoff of dtype."""
        u = float(np.finfo(dtype).eps) / 2
        assert jax.tree.structure(got) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            a, b = np.asarray(a), np.asarray(b)
            assert a.shape == b.shape
            wide = np.complex128 if np.iscomplexobj(b) else np.float64
            error = np.abs(a.astype(wide) - b.astype(wide))
            bound = ulps * u * (np.abs(b.astype(wide)) + scale)
            assert np.all(error <= bound), (error / bound).max()

    return check
