"""Properties judged by the oracle: m, v and θ are within the derived bound, for inputs of every kind."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from setadam_conformance.cases import strategies as of
from setadam_conformance.cases.case import Case, LayerCase, dtype_of
from setadam_conformance.cases.formats import compute_format
from setadam_conformance.judging.bench import Bench, follow
from setadam_conformance.properties.registry import prop
from setadam_conformance.protocol import Capabilities, NumPyArray

Cases = st.SearchStrategy[Case]


@prop(of.cases, share=3, usual_graphs=True)
def one_step(bench: Bench, case: Case) -> None:
    """One step from any state is within the bound, for m, v and θ.

    The central property: any magnitudes, zeros, sizes, step counts and hyperparameters, and several layers in one call.
    Source: the paper's algorithm, and docs/bound.md for the bound.
    """
    bench.conform(case)


@prop(of.cases, share=2, covers=True)
def circumstances(bench: Bench, case: Case) -> None:
    """One step is within the bound in all circumstances of the table of dimensions, taken in pairs.

    Most faults that authors of tests do not see need two circumstances that never met: complex numbers with gaps in
    memory, an infinity with a switch off. Where an input is not finite, NaN and infinity must be where the formulas
    have them, and all other coordinates within the bound. Source: `cases.dimensions`, docs/conformance.md.
    """
    answer = bench.conform(case)
    bench.spreads(case, answer)


@prop(of.bit_pattern_cases, share=1, usual_graphs=True)
def bit_patterns(bench: Bench, case: Case) -> None:
    """One step is within the bound when every bit of its inputs is drawn at random.

    This reaches numbers that samplers of magnitudes miss: subnormals, neighbours of powers of two, and in 16-bit
    formats every number. Source: the way in which Berkeley TestFloat draws operands.
    """
    bench.conform(case)


def _trajectories(claims: Capabilities, dtype: str) -> Cases:
    low, high = of.exponent_range(dtype)
    extra = st.fixed_dictionaries({"seed": st.integers(0, 2**16), "steps": st.just(8)})
    near = st.integers(max(low, -10), min(high, 3))
    return of.cases(claims, dtype, t=st.just(0), exponent=near, extra=extra)


@prop(_trajectories, share=0.4, usual_graphs=True)
def trajectory(bench: Bench, case: Case) -> None:
    """Each of eight successive steps is within the bound of a step from the backend's own state.

    The oracle restarts each step from the backend's state, because correct trajectories drift apart over many steps.
    Finds state that is misplaced, scaled, or stale. Source: docs/bound.md, "What counts as a correct implementation".
    """
    rng = np.random.default_rng(case.extra["seed"])
    for _ in range(case.extra["steps"]):
        answer = bench.conform(case)
        grads = [
            (layer.grad * rng.choice([0.0, 1.0, -1.0, 0.5], size=layer.grad.shape)).astype(layer.grad.dtype)
            for layer in case.layers
        ]
        if not all(np.isfinite(of.real(p)).all() for p in answer.params):
            return
        case = follow(case, answer, grads)


@prop(lambda c, d: of.cases(c, d, shape=of.few(c, (1,), [(1,), ()]), count=st.just(1)))
def single_coordinate(bench: Bench, case: Case) -> None:
    """A layer of one coordinate has γ = 1 and w̃ = (1-τ)w, within the bound.

    Catches d-1 in place of d, padding, and 0-d arrays that are skipped. Source: γ ∈ [1/d, 1].
    """
    bench.conform(case)


def _large(claims: Capabilities, dtype: str) -> Cases:
    shape = of.few(claims, (4099,), [(513,), (1031,), (4099,)])
    return of.cases(claims, dtype, shape=shape, count=st.just(1), hp=of.just(tau=0.9, eps=1e-12))


@prop(_large, share=0.05)
def large_layer(bench: Bench, case: Case) -> None:
    """Layers of some thousand and of 2²⁰ coordinates are within the bound of the claimed reduction class.

    Catches a sequential sum that is claimed as pairwise, 16-bit counters, and faults at the end of blocks. The large
    layer multiplies a small one, repeated, by numbers in [1, 2), so that its blocks differ and, unless there are zeros,
    only one of them holds the minimum. Expensive backends get some more than 2¹⁶ coordinates. Source: docs/bound.md,
    the length H of a chain of additions.
    """
    bench.conform(case)
    if not bench.claims.compiles:
        d = max(2**20 // bench.claims.cost, 2**16) + 1 + case.layers[0].param.size % 61
        bench.conform(replace(case, layers=tuple(_enlarged(layer, d) for layer in case.layers)))


def _enlarged(layer: LayerCase, d: int) -> LayerCase:
    """A layer of d coordinates like this one. No two of its blocks are alike."""
    factor = 1 + np.random.default_rng(d).random(d)

    def times(x: NumPyArray, by: NumPyArray) -> NumPyArray:
        return (np.resize(x, d).astype(np.float64) * by).astype(x.dtype)

    param, grad, m = (times(x, factor) for x in (layer.param, layer.grad, layer.m))
    return LayerCase(param, grad, m, times(layer.v, factor**2))


@prop(
    lambda c, d: of.cases(c, d, t=st.sampled_from([0, 1, 2, 10, 31, 1000, 10**5, 10**7, 2**24, 10**9 - 1])),
    usual_graphs=True,
)
def step_counts(bench: Bench, case: Case) -> None:
    """The bias corrections are accurate for any t from 1 to 10⁹.

    1 - float32(β)ᵗ has a relative error of up to 3e-5 at t = 1, 16-bit counters wrap, and float32 cannot hold 2²⁴ + 1.
    Source: docs/numerics.md.
    """
    bench.conform(case)


def _scale_free(claims: Capabilities, dtype: str) -> Cases:
    compute = compute_format(dtype)
    lowest = int(np.log2(compute.smallest_subnormal)) // 2
    highest = int(np.log2(compute.largest)) // 2 - 5
    hp = of.few(claims, 0.999, [0.999, 0.99999]).map(
        lambda beta2: of.defaults(eps=1e-30 if compute.name == "float32" else 1e-290, beta2=beta2)
    )

    @st.composite
    def draw_case(draw: st.DrawFn) -> Case:
        """The moments are drawn directly, because gradients in 16-bit formats cannot reach this range."""
        shape = draw(of.shapes(claims))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        e = draw(st.integers(lowest, highest))
        root = 2.0**e * (1 + rng.random(shape) * draw(st.sampled_from([1.0, 30.0])))
        zero = np.zeros(shape, dtype_of(dtype))
        v, m = (root**2).astype(compute.numpy), (root * rng.normal(size=shape)).astype(compute.numpy)
        return Case(dtype, (LayerCase(zero, zero.copy(), m, v),), draw(st.integers(0, 3)), draw(hp))

    return draw_case()


@prop(_scale_free, applies=lambda claims: not claims.is_narrow)
def scale_free(bench: Bench, case: Case) -> None:
    """γ depends only on the direction of v, from the smallest subnormal v to near overflow.

    A guard such as Σv² + 1e-20, or a plain float32 Σv², is wrong for v of 1e-22 and below. θ is 0 and ε is tiny, so
    that neither hides γ. Source: γ = cos²∠(v, 1).
    """
    bench.conform(case)


@prop(lambda c, d: of.cases(c, d, hp=_decaying(c)), needs=("weight_decay",), usual_graphs=True)
def weight_decay(bench: Bench, case: Case) -> None:
    """Both weight decays are within the bound, with parameters that are large enough to reveal them.

    Coupled decay adds λθ to the gradient, before both moments. Decoupled decay multiplies θ by 1 - ηλ, independent of
    the moments and the bias corrections. Source: Adam's and AdamW's definitions.
    """
    bench.conform(_at_scale(case))


def _decaying(claims: Capabilities) -> st.SearchStrategy[dict[str, Any]]:
    if claims.compiles:
        return of.few_settings(claims, 1, 3)  # one decay coupled, one decoupled
    decoupled = [False, True] if "decoupled_weight_decay" in claims.options else [False]
    maximize = [False, True] if "maximize" in claims.options else [False]
    return st.fixed_dictionaries(
        {
            **{k: st.just(x) for k, x in of.defaults().items()},
            "lr": st.sampled_from([0.1, 1e-3]),
            "weight_decay": st.sampled_from([0.3, 1e-4, 0.05]),
            "decoupled_weight_decay": st.sampled_from(decoupled),
            "maximize": st.sampled_from(maximize),
        }
    )


def _at_scale(case: Case) -> Case:
    """The case with zero parameters replaced by ones that a decay changes visibly."""
    return replace(
        case,
        layers=tuple(
            layer if np.any(layer.param) else replace(layer, param=(layer.param + 3).astype(layer.param.dtype))
            for layer in case.layers
        ),
    )


@prop(
    lambda c, d: of.cases(c, d, is_complex=True, count=of.few(c, 2, [1, 2])),
    needs=("complex",),
    dtypes=("float64", "float32"),
)
def complex_layers(bench: Bench, case: Case) -> None:
    """A complex layer of d coordinates is a real layer of 2d coordinates, with one γ and one minimum.

    |g|² in place of the squares of both parts, or one γ for each part, is a different optimizer.
    Source: the convention of torch.view_as_real.
    """
    bench.conform(case)


def _stacked(claims: Capabilities, dtype: str) -> Cases:
    # At most 64 coordinates: strided sums need not be pairwise, and both classes have the same bound up to 65.
    choices = [((3, 4), (1,)), ((4, 3), (0,)), ((2, 3, 4), (1, 2)), ((3, 5, 2), (0, 2)), ((5,), ())]
    return of.few(claims, choices[0], choices).flatmap(
        lambda choice: of.cases(claims, dtype, shape=st.just(choice[0])).map(
            lambda case: replace(case, layers=tuple(replace(x, axes=choice[1]) for x in case.layers))
        )
    )


@prop(_stacked, needs=("layer_axes",))
def layer_axes(bench: Bench, case: Case) -> None:
    """Layers stacked in one array have their own γ and minimum each, over the axes in `layer_axes`.

    Scanned layers, experts and ensembles are stacked like this. One statistic for the whole stack is wrong, and raises
    no error. Source: optax#1271.
    """
    bench.conform(case)
