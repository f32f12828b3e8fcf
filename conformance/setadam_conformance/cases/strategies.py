"""Hypothesis strategies for cases: the magnitudes, zeros, sizes, steps and hyperparameters that reveal faults. Each
kind is here because a seeded fault passed without it.

Small layers are drawn entry by entry, as bit patterns. Larger ones follow from a drawn seed, a power of two and a
regime, so that an example is cheap and shrinks towards few, simple entries.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from setadam_conformance.cases.case import DEFAULTS, Case, LayerCase, dtype_of, real_view
from setadam_conformance.cases.formats import FORMATS, compute_format
from setadam_conformance.protocol import Capabilities, NumPyArray

SHAPES: list[tuple[int, ...]] = [
    (1,), (2,), (3,), (5,), (8,), (9,), (4, 4), (), (17,), (3, 5), (2, 3, 4), (64,), (65,), (16, 16), (300,),
]  # fmt: skip
# For backends that compile once for each new shape: these, always in this order.
FEW_SHAPES: list[tuple[int, ...]] = [(65,), (3,)]
STEPS = [0, 1, 2, 9, 99, 999, 12345, 10**6 - 1, 10**9 - 1]

# Hyperparameters: the default comes first, so that those that do not matter to a failure shrink to their defaults.
HYPERPARAMETERS: dict[str, list[Any]] = {
    "lr": [1e-3, 0.1, 1.0, 3e-4, 0.7],
    "beta1": [0.9, 0.0, 0.5, 0.99, 0.3],
    "beta2": [0.999, 0.0, 0.5, 0.99, 0.99999],
    "eps": [1e-8, 1e-3, 1e-12, 1e-16, 1e-30, 0.37],
    "tau": [0.5, 0.0, 0.25, 0.9, 0.99],
    "weight_decay": [0.0, 0.01, 0.3],
    "decoupled_weight_decay": [False, True],
    "maximize": [False, True],
    "cos_power": [2.0, 2.0, 2.0, 0.0, 4.0, 1.0],
    "eps_inside_sqrt": [True, True, True, False],
}
# Settings for the same backends: each is far from the defaults in some fields.
FEW_HYPERPARAMETERS: list[dict[str, Any]] = [
    {},
    {"lr": 0.7, "beta1": 0.3, "beta2": 0.5, "eps": 1e-16, "tau": 0.9, "weight_decay": 0.3},
    {"lr": 0.1, "beta1": 0.5, "beta2": 0.99999, "eps": 1e-12, "tau": 0.25, "weight_decay": 0.3,
     "decoupled_weight_decay": True, "maximize": True},
    {"eps": 1e-3, "tau": 0.0, "cos_power": 0.0, "eps_inside_sqrt": False},
]  # fmt: skip


def _allowed(settings: dict[str, Any], claims: Capabilities) -> dict[str, Any]:
    """The settings without those that the backend does not support; all other fields at their defaults."""
    switched = defaults(**settings)
    for option in ("maximize", "cos_power", "eps_inside_sqrt", "decoupled_weight_decay"):
        if option not in claims.options:
            switched[option] = defaults()[option]
    wanted = "decoupled_weight_decay" if switched["decoupled_weight_decay"] else "weight_decay"
    if wanted not in claims.options:
        switched["weight_decay"] = 0.0
    return switched


def defaults(**changes: Any) -> dict[str, Any]:
    """The default hyperparameters with these changes, all numbers as floats."""
    both = {**DEFAULTS, **changes}
    return {k: x if isinstance(x, bool) else float(x) for k, x in both.items()}


def just(**changes: Any) -> st.SearchStrategy[dict[str, Any]]:
    """A strategy that always gives the default hyperparameters with these changes."""
    return st.just(defaults(**changes))


def hyperparameters(claims: Capabilities, usual: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """Settings within the options that the backend claims.

    A backend that compiles has a graph for each of the few settings at the usual shapes. For other shapes it gets only
    the defaults.
    """
    if claims.compiles:
        return few_settings(claims, 0, len(FEW_HYPERPARAMETERS) if usual else 1)
    each = {name: st.sampled_from(values) for name, values in HYPERPARAMETERS.items()}
    return st.fixed_dictionaries(each).map(lambda drawn: _allowed(drawn, claims))


def few_settings(claims: Capabilities, first: int, last: int) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the settings that a backend has compiled."""
    return st.sampled_from(FEW_HYPERPARAMETERS[first:last]).map(lambda settings: _allowed(settings, claims))


def few(claims: Capabilities, one: Any, pool: list[Any]) -> st.SearchStrategy[Any]:
    """Shapes, counts or settings: always the same one if the backend compiles, otherwise from a pool."""
    return st.just(one) if claims.compiles else st.sampled_from(pool)


def shapes(claims: Capabilities, empty: bool = False) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of one array, small ones first."""
    pool = FEW_SHAPES[:1] if claims.compiles else SHAPES
    if empty and "empty" in claims.options:
        pool = [*pool, (0,), (0, 3)]
    return st.sampled_from(pool)


def usual_or(claims: Capabilities, pool: list[Any]) -> st.SearchStrategy[Any] | None:
    """Shapes from a pool; if the backend compiles, those for which it already has graphs."""
    return None if claims.compiles else st.sampled_from(pool)


def exponent_range(dtype: str) -> tuple[int, int]:
    """The exponents between which a gradient and its square stay within the format's range."""
    storage, compute = FORMATS[dtype], compute_format(dtype)
    low = int(np.log2(storage.smallest_subnormal)) // (1 if dtype == "float16" else 2)
    high = min(int(np.log2(storage.largest)) - 3, int(np.log2(compute.largest)) // 2 - 4)
    return low, high


def exponents(dtype: str) -> st.SearchStrategy[int]:
    """The exponent of a power of two: mostly near 0, otherwise anywhere in the range."""
    low, high = exponent_range(dtype)
    near = st.integers(max(low, -12), min(high, 6))
    return st.one_of(near, st.integers(low, high))


def _round(x: NumPyArray, dtype: np.dtype[Any]) -> NumPyArray:
    """float64 numbers rounded to a format, and clipped to its largest number."""
    limit = FORMATS[str(dtype)].largest if str(dtype) in FORMATS else np.inf
    with np.errstate(all="ignore"):
        return np.asarray(np.clip(x, -limit, limit).astype(dtype))


@st.composite
def layers(
    draw: st.DrawFn,
    dtype: str,
    shape: tuple[int, ...],
    t: int,
    is_complex: bool = False,
    exponent: st.SearchStrategy[int] | None = None,
    axes: tuple[int, ...] | None = None,
) -> LayerCase:
    """A layer after t steps: gradients near a power of two, and moments to match."""
    real_shape = (*shape, 2) if is_complex else shape
    storage, compute = dtype_of(dtype), compute_format(dtype).numpy
    e = draw(exponents(dtype) if exponent is None else exponent)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.0, 1.0, 4.0]))
    zeros = draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))
    kind = draw(st.sampled_from(["normal", "normal", "constant", "one dominant"]))
    at = draw(st.sampled_from([0.0, 1.0, 1e-3, 300.0]))
    scale = 2.0**e

    def sample() -> NumPyArray:
        x = rng.normal(size=real_shape) * 10 ** (spread * rng.normal(size=real_shape))
        if kind == "constant":
            x = np.full(real_shape, rng.normal())
        x = np.where(rng.random(real_shape) < zeros, 0.0, x)
        if kind == "one dominant" and x.size:
            x.flat[rng.integers(x.size)] = 1e4
        return np.asarray(x)

    with np.errstate(all="ignore"):
        grad = _round(scale * sample(), storage)
        # Earlier moments: of the same kind, at another magnitude, with their own zeros.
        past = 2.0 ** rng.integers(-6, 7)
        m = _round(scale * past * sample(), compute) if t else np.zeros(real_shape, compute)
        v = _round((scale * past * sample()) ** 2, compute) if t else np.zeros(real_shape, compute)
        param = _round(at * rng.normal(size=real_shape), storage)
    if is_complex:
        twin = dtype_of(dtype, is_complex=True)
        param, grad = param.view(twin).reshape(shape), grad.view(twin).reshape(shape)
    return LayerCase(param, grad, m, v, axes)


@st.composite
def cases(
    draw: st.DrawFn,
    claims: Capabilities,
    dtype: str,
    *,
    shape: st.SearchStrategy[tuple[int, ...]] | None = None,
    t: st.SearchStrategy[int] | None = None,
    hp: st.SearchStrategy[dict[str, Any]] | None = None,
    exponent: st.SearchStrategy[int] | None = None,
    count: st.SearchStrategy[int] | None = None,
    is_complex: bool = False,
    extra: st.SearchStrategy[dict[str, Any]] | None = None,
) -> Case:
    """One step of one or more layers."""
    several = "many" in claims.options
    n = draw(count if count is not None else few(claims, 2, [1, 1, 2, 3])) if several else 1
    steps = draw(t if t is not None else st.sampled_from(STEPS))
    usual = shape is None and claims.compiles
    pools = [st.just(one) for one in FEW_SHAPES[:n]] if usual else [shape if shape is not None else shapes(claims)] * n
    drawn = tuple(draw(layers(dtype, draw(pool), steps, is_complex=is_complex, exponent=exponent)) for pool in pools)
    usual = usual and n == len(FEW_SHAPES) and not is_complex
    settings = draw(hp if hp is not None else hyperparameters(claims, usual))
    return Case(dtype, drawn, steps, settings, draw(extra) if extra is not None else {})


def bit_pattern_cases(claims: Capabilities, dtype: str) -> st.SearchStrategy[Case]:
    """Layers of a few entries, every bit of them drawn. Patterns that are not finite become zero."""
    width = FORMATS[dtype].numpy.itemsize * 8
    unsigned = np.dtype(f"uint{width}")
    limit = 2.0 ** exponent_range(dtype)[1]

    def array(bits: list[int], bounded: bool) -> NumPyArray:
        x = np.array(bits, unsigned).view(dtype_of(dtype))
        wide = x.astype(np.float64)
        keep = np.isfinite(wide) & ((np.abs(wide) < limit) | (not bounded))
        return np.where(keep, x, np.zeros_like(x))

    @st.composite
    def draw_layer(draw: st.DrawFn, shape: tuple[int, ...] | None) -> LayerCase:
        """The drawn entries are repeated to fill a given shape."""
        d = draw(st.integers(1, 6))
        words = st.lists(st.integers(0, 2**width - 1), min_size=d, max_size=d)
        param, grad, m, root_v = (
            np.resize(array(draw(words), bounded), shape or (d,)) for bounded in (False, True, True, True)
        )
        compute = compute_format(dtype).numpy
        return LayerCase(param, grad, m.astype(compute), root_v.astype(compute) ** 2)

    @st.composite
    def draw_case(draw: st.DrawFn) -> Case:
        usual = claims.compiles and "many" in claims.options
        drawn = tuple(draw(draw_layer(shape)) for shape in (FEW_SHAPES if usual else [None]))
        return Case(dtype, drawn, draw(st.sampled_from(STEPS[1:])), draw(hyperparameters(claims, usual)))

    return draw_case()


def real(x: NumPyArray) -> NumPyArray:
    """The real view as float64, for properties that compare numbers rather than bits."""
    return real_view(x).astype(np.float64)
