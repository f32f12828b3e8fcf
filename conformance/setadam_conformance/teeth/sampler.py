"""A hundred layers in one case: they are the rows of one array, kept apart by `layer_axes`, so that a hundred thousand
examples take minutes. Magnitudes, zeros, sizes, steps and hyperparameters are of the kinds in `strategies.py`. NumPy
draws them, because nothing is shrunk.
"""

from collections.abc import Iterator

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase, dtype_of
from setadam_conformance.cases.claimed import as_claimed
from setadam_conformance.cases.formats import FORMATS, compute_format
from setadam_conformance.cases.strategies import HYPERPARAMETERS, STEPS, defaults, exponent_range
from setadam_conformance.judging.judge import STAGES, judge
from setadam_conformance.protocol import Adapter, LayerState, NumPyArray

ROWS = 100
SIZES = (1, 2, 3, 5, 8, 17, 64, 300)


def batches(dtype: str, layers: int, seed: int = 0) -> Iterator[Case]:
    """At least this many layers, ROWS in each case. A case has one size, step count and setting."""
    rng = np.random.default_rng(seed)
    for _ in range(-(-layers // ROWS)):
        yield batch(dtype, int(rng.choice(SIZES)), rng)


def batch(dtype: str, d: int, rng: np.random.Generator) -> Case:
    """ROWS layers of d coordinates, each with its own magnitude and kind."""
    shape, compute = (ROWS, d), compute_format(dtype).numpy
    hp = defaults(**{name: values[rng.integers(len(values))] for name, values in HYPERPARAMETERS.items()})
    t = int(STEPS[rng.integers(len(STEPS))])
    low, high = exponent_range(dtype)
    near = rng.integers(max(low, -12), min(high, 6) + 1, (ROWS, 1))
    scale = 2.0 ** np.where(rng.random((ROWS, 1)) < 0.6, near, rng.integers(low, high + 1, (ROWS, 1)))
    spread = rng.choice([0.0, 0.0, 1.0, 4.0], (ROWS, 1))
    zeros = rng.choice([0.0, 0.0, 0.3, 1.0], (ROWS, 1))
    constant = rng.random((ROWS, 1)) < 0.15
    past = 2.0 ** rng.integers(-6, 7, (ROWS, 1))

    def sample() -> NumPyArray:
        x = rng.normal(size=shape) * 10 ** (spread * rng.normal(size=shape))
        x = np.where(constant, x[:, :1], x)
        return np.asarray(np.where(rng.random(shape) < zeros, 0.0, x))

    def rounded(x: NumPyArray, format_name: str) -> NumPyArray:
        limit = FORMATS[format_name].largest
        return np.asarray(np.clip(x, -limit, limit).astype(dtype_of(format_name)))

    with np.errstate(all="ignore"):
        grad = rounded(scale * sample(), dtype)
        m, v = np.zeros(shape, compute), np.zeros(shape, compute)
        if t:
            m = rounded(scale * past * sample(), str(compute))
            v = rounded((scale * past * sample()) ** 2, str(compute))
        at = rng.choice([0.0, 0.0, 1.0, 1e-3, 300.0])
        param = rounded(at * rng.normal(size=shape), dtype)
    return Case(dtype, (LayerCase(param, grad, m, v, (1,)),), t, hp)


def worst(adapter: Adapter, dtype: str, layers: int, seed: int = 0) -> tuple[dict[str, float], list[Case]]:
    """The worst error/bound of each stage over this many layers, and the cases in which one exceeded 1.

    "update" is θ in layers where θ was 0, so that the rounding of θ hides nothing.
    """
    ratio, rejected = dict.fromkeys((*STAGES, "update"), 0.0), []
    with np.errstate(all="ignore"):
        for drawn in batches(dtype, layers, seed):
            case = as_claimed(drawn, adapter.capabilities)
            (layer,) = case.layers
            new = adapter.step(
                [layer.param.copy()],
                [layer.grad.copy()],
                [_state(layer, case.t)],
                dict(case.hp),
                [layer.axes],
            )
            verdict = judge(case, *new, adapter.capabilities)
            for stage in STAGES:
                ratio[stage] = max(ratio[stage], verdict.scores[stage].ratio)
            if not np.any(layer.param):
                ratio["update"] = max(ratio["update"], verdict.scores["param"].ratio)
            if not verdict.conforms:
                rejected.append(case)
    return ratio, rejected


def _state(layer: LayerCase, t: int) -> LayerState:
    return LayerState(layer.m.copy(), layer.v.copy(), t)
