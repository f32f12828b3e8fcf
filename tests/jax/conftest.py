"""What the JAX tests share: one small tree, and the specification run in float64 as its reference."""

import jax
import numpy as np
import pytest

from setadam_core import Hyperparameters, init, step

SHAPES = {"b": (5,), "w": (3, 4)}


class Reference:
    """setadam_core under NumPy in float64, from exactly the inputs that JAX gets."""

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


@pytest.fixture(autouse=True)
def no_rank_is_promoted():
    """Every test here is one of a user who forbids it; what is allowed needs no test of its own."""
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
