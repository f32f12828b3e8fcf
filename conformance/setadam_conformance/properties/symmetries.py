"""Properties that compare two steps of one backend: changes of the inputs that must, or must not, change the result.

The exact ones hold bit for bit in any order of evaluation, because negation and powers of two commute with rounding.
They need no oracle, so they would reveal a fault that the oracle shares. Where the order of summation may change, the
oracle judges both steps instead.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from setadam_conformance.cases import strategies as of
from setadam_conformance.cases.case import Case, LayerCase, map_layer
from setadam_conformance.judging.bench import Bench
from setadam_conformance.properties.registry import layerwise, prop
from setadam_conformance.protocol import Capabilities, NumPyArray

Cases = st.SearchStrategy[Case]


def _deterministic(claims: Capabilities) -> bool:
    return claims.deterministic


def _uncompiled(claims: Capabilities) -> bool:
    return not claims.compiles


def _scales_exactly(claims: Capabilities) -> bool:
    """In narrow formats ε underflows, and moments become subnormal."""
    return _deterministic(claims) and _uncompiled(claims) and not claims.is_narrow


def _moderate(claims: Capabilities, dtype: str, **changes: Any) -> Cases:
    """Layers near 1 at settings near the defaults, which neither overflow nor underflow when they are scaled."""
    hp = of.hyperparameters(claims, usual=False).map(
        lambda h: {**h, "eps": max(h["eps"], 1e-12), "cos_power": 2.0, "weight_decay": 0.0}
    )
    kept = {"hp": hp, "exponent": st.integers(-3, 3), "count": st.just(1)} | changes
    return of.cases(claims, dtype, **kept)


def _each(case: Case, change: Callable[[LayerCase], LayerCase]) -> Case:
    return replace(case, layers=tuple(change(layer) for layer in case.layers))


def _scaled(x: NumPyArray, power: int) -> NumPyArray:
    """x·2^power, in x's dtype."""
    return np.asarray((x.astype(np.float64) * 2.0**power).astype(x.dtype))


@prop(of.cases, applies=_deterministic, usual_graphs=True)
def sign(bench: Bench, case: Case) -> None:
    """Negating θ, g and m negates the new θ and m exactly, and does not change v.

    Rounding to nearest is symmetric, and the denominator depends only on squares. Catches a wrong sign, an absolute
    value or a bias anywhere in the update. Source: the formulas are odd in (θ, g, m).
    """
    negated = _each(case, lambda x: replace(x, param=-x.param, grad=-x.grad, m=-x.m))
    a, b = bench.step(case), bench.step(negated)
    bench.same_bits(a.params, [-p for p in b.params], "θ' of the negated step is not -θ'", case)
    bench.same_bits([s.m for s in a.states], [-s.m for s in b.states], "m' of the negated step is not -m'", case)
    bench.same_bits([s.v for s in a.states], [s.v for s in b.states], "v' of the negated step is not v'", case)


@prop(lambda c, d: _moderate(c, d), applies=lambda c: _scales_exactly(c) and c.epsilon != "both", free=("eps",))
def power_of_two_scaling(bench: Bench, case: Case) -> None:
    """Scaling g and m by 2ᵏ, and v and ε by 4ᵏ, scales m' by 2ᵏ and v' by 4ᵏ and does not change a bit of θ'.

    ε is the only scale in the step. Catches a guard, a clamp or a second ε. Source: the formulas are homogeneous.
    """
    case = _each(case, lambda x: replace(map_layer(lambda a: _within(a, -40, 40), x), grad=_within(x.grad, -4, 8)))
    epsilon_power = 2 if case.hp["eps_inside_sqrt"] else 1
    for k in (-2, 3):
        scaled = _each(
            case.with_hp(eps=case.hp["eps"] * 2.0 ** (epsilon_power * k)),
            lambda x, k=k: replace(x, grad=_scaled(x.grad, k), m=_scaled(x.m, k), v=_scaled(x.v, 2 * k)),  # type: ignore[misc]
        )
        a, b = bench.step(case), bench.step(scaled)
        bench.same_bits(a.params, b.params, f"θ' changed when g, m were scaled by 2^{k}, v and ε by 4^{k}", case)
        bench.same_bits([_scaled(s.v, 2 * k) for s in a.states], [s.v for s in b.states], "v' did not scale", case)


def _within(x: NumPyArray, low: int, high: int) -> NumPyArray:
    """The array with entries set to zero that scaling could turn into subnormals or infinity."""
    size = np.abs(x.astype(np.float64))
    return np.where((size > 2.0**low) & (size < 2.0**high), x, np.zeros_like(x))


@prop(
    lambda c, d: _moderate(c, d, hp=of.just(lr=2.0**-6)),
    applies=_scales_exactly,
    free=("lr",),
)
def stepsize_is_linear(bench: Bench, case: Case) -> None:
    """From θ = 0, twice the learning rate gives exactly twice the update. A learning rate of 0 changes only m and v.

    Catches a learning rate that is fixed, rounded too early, or applied to the moments. Source: the update is linear in
    η.
    """
    zero = _each(case, lambda x: replace(x, param=np.zeros_like(x.param)))
    a, b = bench.step(zero), bench.step(zero.with_hp(lr=2.0**-5))
    normal = [np.abs(of.real(p)) > 2.0**-13 for p in a.params]  # large enough not to be subnormal in float16
    doubled = [np.where(n, _scaled(p, 1), 0) for n, p in zip(normal, a.params, strict=True)]
    got = [np.where(n, p, 0) for n, p in zip(normal, b.params, strict=True)]
    bench.same_bits(got, doubled, "twice lr is not twice the update", case)
    still = bench.step(case.with_hp(lr=0.0))
    bench.same_bits(still.params, [x.param for x in case.layers], "lr = 0 moved θ", case)
    bench.same_bits([s.m for s in still.states], [s.m for s in bench.step(case).states], "m' depends on lr", case)


@prop(lambda c, d: of.cases(c, d, hp=_ascending(c)), needs=("maximize",), applies=_deterministic)
def maximize(bench: Bench, case: Case) -> None:
    """`maximize` is exactly the step with -g, also with weight decay, which is not negated.

    Source: torch.optim's definition.
    """
    turned = _each(case.with_hp(maximize=False), lambda x: replace(x, grad=-x.grad))
    a, b = bench.step(case), bench.step(turned)
    bench.same_bits(a.params, b.params, "maximize is not the step with -g", case)
    bench.same_bits([s.m for s in a.states], [s.m for s in b.states], "m' differs from that with -g", case)


def _ascending(claims: Capabilities) -> st.SearchStrategy[dict[str, Any]]:
    if claims.compiles:
        return of.few_settings(claims, 2, 3)
    decay = st.sampled_from([0.0, 0.1] if "weight_decay" in claims.options else [0.0])
    return decay.map(lambda x: of.defaults(maximize=True, weight_decay=x))


def _two_layers(claims: Capabilities, dtype: str) -> Cases:
    return of.cases(claims, dtype, count=st.just(2), hp=of.hyperparameters(claims, usual=False))


@prop(_two_layers, needs=("many",), applies=_deterministic)
def layers_are_independent(bench: Bench, case: Case) -> None:
    """A change in one layer does not change a bit of any other layer.

    Catches a γ or a minimum over all layers, a buffer that one layer leaves to another, and results in the wrong order.
    Source: the paper's operations are layerwise.
    """
    first, second = case.layers
    other = replace(second, grad=(second.grad * 0 + 1).astype(second.grad.dtype), v=second.v * 0 + 1)
    a, b = bench.step(case), bench.step(replace(case, layers=(first, other)))
    bench.same_bits(a.params[:1], b.params[:1], "θ' of a layer depends on another layer", case)
    c, d = bench.step(replace(case, layers=(second, first))), a
    bench.conform(replace(case, layers=(second, first)), c)
    bench.conform(case, d)


@prop(lambda c, d: of.cases(c, d, shape=of.usual_or(c, [(3,), (4, 4)]), count=st.just(2), exponent=st.integers(-3, 3),
                            t=st.sampled_from([9, 999]), hp=of.just()),
      needs=("many",), share=0.3, applies=layerwise)  # fmt: skip
def concatenation_matters(bench: Bench, case: Case) -> None:
    """Two layers of different scale take a different step when they are concatenated: the operations are layerwise.

    An implementation on flattened parameters passes every elementwise check, and is a different optimizer. The oracle
    judges the concatenated step, and it must differ from the separate ones. Source: the paper's algorithm.
    """
    low, high = (
        replace(x, param=x.param * 0, grad=_scaled(x.grad * 0 + 1, k), m=x.m * 0 + 2.0**k, v=x.v * 0 + 4.0**k)
        for x, k in zip(case.layers, (0, 4), strict=True)
    )
    param, grad, m, v = (
        np.concatenate([getattr(x, name).ravel() for x in (low, high)]) for name in ("param", "grad", "m", "v")
    )
    joined = LayerCase(param, grad, m, v)
    apart = bench.conform(replace(case, layers=(low, high)))
    together = bench.conform(replace(case, layers=(joined,)))
    flat = np.concatenate([p.ravel() for p in apart.params])
    bench.require(not np.array_equal(flat, together.params[0]), "concatenating two layers changed nothing", case)


@prop(lambda c, d: of.cases(c, d, count=st.just(1), extra=st.fixed_dictionaries({"seed": st.integers(0, 999)})))
def permutation_reshape_stride(bench: Bench, case: Case) -> None:
    """Permuted, reshaped, transposed, Fortran-ordered and strided layers are within the bound of the same step.

    Catches a minimum or a sum over one axis, faults at the end of blocks, and kernels that ignore strides.
    Source: the operations are symmetric in the coordinates.
    """
    layer = case.layers[0]
    order = np.random.default_rng(case.extra["seed"]).permutation(layer.param.size)

    def permuted(x: NumPyArray) -> NumPyArray:
        return np.asarray(x.ravel()[order].reshape(x.shape))

    def descending(x: NumPyArray) -> NumPyArray:  # the smallest v comes last, at the end of a block
        return np.asarray(x.ravel()[np.argsort(-layer.v.ravel())].reshape(x.shape))

    def strided(x: NumPyArray) -> NumPyArray:
        wide = np.zeros((*x.shape, 2), x.dtype)
        wide[..., 0] = x
        return wide[..., 0]

    def fortran(x: NumPyArray) -> NumPyArray:
        return np.asfortranarray(x)

    def flat(x: NumPyArray) -> NumPyArray:
        return np.asarray(x.reshape(-1))

    compiled = bench.claims.compiles
    for view in (permuted,) if compiled else (permuted, descending, strided, fortran, flat):
        bench.conform(replace(case, layers=(map_layer(view, layer),)))


@prop(lambda c, d: of.cases(c, d, count=st.just(1), shape=st.sampled_from([(1,), (3,), (8,), (17,)])),
      applies=_uncompiled)  # fmt: skip
def duplication(bench: Bench, case: Case) -> None:
    """A layer concatenated with itself takes the same step: γ and the minimum do not depend on d itself.

    Catches d±1 in place of d, sums in place of means, and padding. Both steps are within the bound, so they differ by
    at most the sum of the two bounds. Source: γ = (mean v)²/mean v².
    """
    layer = case.layers[0]
    answer = bench.conform(replace(case, layers=(map_layer(lambda x: np.concatenate([x, x]), layer),)))
    bench.conform(case)
    halves = np.split(of.real(answer.params[0]), 2)
    close = np.allclose(halves[0], halves[1], rtol=64 * _unit(bench.dtype), atol=1e-30, equal_nan=True)
    bench.require(close, "the halves of a doubled layer differ", case)


def _unit(dtype: str) -> float:
    from setadam_conformance.cases.formats import FORMATS

    return FORMATS[dtype].u


@prop(of.cases, applies=_deterministic, share=0.3, usual_graphs=True)
def determinism(bench: Bench, case: Case) -> None:
    """The same call gives the same bits. Backends claim this with `deterministic`.

    Catches atomics in a reduction, races between threads, and uninitialized memory. Without determinism, a run cannot
    be resumed exactly, and a fault cannot be reproduced. Source: the claim.
    """
    a, b = bench.step(case), bench.step(case)
    bench.same_bits(a.params, b.params, "the same step gave another θ'", case)
    bench.same_bits([s.m for s in a.states], [s.m for s in b.states], "the same step gave another m'", case)
    bench.same_bits([s.v for s in a.states], [s.v for s in b.states], "the same step gave another v'", case)
