"""Properties of the interface: what a step may write, must keep, and must refuse, and what survives a reload."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from setadam_conformance.cases import strategies as of
from setadam_conformance.cases.case import Case
from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.judging.bench import Bench, Given, follow, native
from setadam_conformance.properties.registry import prop
from setadam_conformance.protocol import Capabilities, LayerState


@prop(
    lambda c, d: of.cases(c, d, count=of.few(c, 2, [1, 2]), hp=of.hyperparameters(c, usual=False)),
    share=0.3,
    about="interface",
)
def inputs_are_not_written(bench: Bench, case: Case) -> None:
    """Gradients are never written. Parameters and state are written only by a backend that claims `in_place`.

    The usual fault is to write coupled weight decay or maximize into p.grad. Then logged gradients, and a second step
    with them, are wrong. Source: torch.optim's contract, in which a step only reads p.grad.
    """
    decayed = case.with_hp(**_decay(bench.claims))
    params, grads, states = native(bench.adapter, decayed)
    read = bench.read
    bench.call(decayed, (params, grads, states))
    bench.same_bits([read(g) for g in grads], [x.grad for x in case.layers], "a gradient was written", case)
    if not bench.claims.in_place:
        bench.same_bits([read(p) for p in params], [x.param for x in case.layers], "a parameter was written", case)
        bench.same_bits([read(s.v) for s in states], [x.v for x in case.layers], "v was written", case)
        bench.same_bits([read(s.m) for s in states], [x.m for x in case.layers], "m was written", case)


def _decay(claims: Capabilities) -> dict[str, Any]:
    decay = {"weight_decay": 0.3} if "weight_decay" in claims.options else {}
    return decay | ({"maximize": True} if "maximize" in claims.options else {})


@prop(
    lambda c, d: of.cases(c, d, shape=None if c.compiles else of.shapes(c, empty=True)),
    share=0.3,
    usual_graphs=True,
    about="interface",
)
def dtype_shape_and_bits_are_kept(bench: Bench, case: Case) -> None:
    """Conversions are exact, and a step returns θ, m and v with the dtypes and shapes that they had.

    16-bit parameters keep float32 moments, because bfloat16 rounds 0.999 to 1. Source: `protocol.LayerState`.
    """
    for layer in case.layers:
        params, grads, states = native(bench.adapter, replace(case, layers=(layer,)))
        own = ((layer.param, params[0]), (layer.grad, grads[0]), (layer.m, states[0].m), (layer.v, states[0].v))
        for x, taken in own:
            back = bench.read(taken)
            bench.require(
                back.dtype == x.dtype and back.shape == x.shape, "a conversion changed the dtype or shape", case
            )
            bench.same_bits([back], [x], "a conversion changed bits", case)
    bench.step(case)  # checks the dtypes, shapes and t of the result


def _one_layer(claims: Capabilities, dtype: str) -> st.SearchStrategy[Case]:
    return of.cases(claims, dtype, shape=st.just((3,)), count=st.just(1), exponent=st.just(0), hp=of.just())


BAD_HYPERPARAMETERS: list[tuple[str, float]] = [
    (name, value)
    for name, values in {
        "lr": (-0.1, float("nan"), float("inf")),
        "beta1": (1.0, -0.1, float("nan")),
        "beta2": (1.0, 1.5, float("nan")),
        "eps": (0.0, -1e-8, float("nan"), float("inf")),
        "tau": (1.0, -0.5, float("nan")),
        "weight_decay": (-0.01, float("nan")),
    }.items()
    for value in values
]


@prop(_one_layer, share=0.2, usual_graphs=True, about="interface")
def hyperparameter_errors(bench: Bench, case: Case) -> None:
    """Hyperparameters that are out of range or not finite are refused before anything is changed.

    η ≥ 0, 0 ≤ β < 1, ε > 0, 0 ≤ τ < 1, λ ≥ 0. A check such as `if lr < 0: raise` lets NaN pass.
    Source: `setadam_core.Hyperparameters`.
    """
    for name, value in BAD_HYPERPARAMETERS:
        absent = name == "weight_decay" and name not in bench.claims.options
        if absent or name in bench.claims.fixed:
            continue
        bench.refuses(case.with_hp(**{name: value}), f"{name} = {value}")


@prop(_one_layer, share=0.2, usual_graphs=True, about="interface")
def tiny_epsilon_error(bench: Bench, case: Case) -> None:
    """An ε that underflows in the compute dtype is refused: it would become 0, and a zero gradient would give 0/0.

    Source: chainer, whose Adam checks this.
    """
    bench.refuses(case.with_hp(eps=1e-320), "an eps below the smallest normal number of the compute dtype")


@prop(
    lambda c, d: of.cases(c, d, shape=st.just((4, 1)), count=st.just(1), exponent=st.just(0), hp=of.just()),
    share=0.2,
    usual_graphs=True,
    about="interface",
)
def shape_errors(bench: Bench, case: Case) -> None:
    """A gradient or moment whose shape is not the parameter's is refused, even if it would broadcast.

    A gradient that broadcasts gives a step of the right shape and the wrong values. Source: `protocol.LayerState`.
    """
    layer = case.layers[0]
    for name in ("grad", "m", "v"):
        for shape in ((1, 4), (4,), (1, 1)):
            wrong: Any = {name: np.ones(shape, getattr(layer, name).dtype)}
            bench.refuses(replace(case, layers=(replace(layer, **wrong),)), f"{name} of shape {shape}")


@prop(lambda c, d: of.cases(c, d, shape=st.just((4,)), count=st.just(2), exponent=st.just(0), hp=of.just()),
      needs=("many",), share=0.2, usual_graphs=True, about="interface")  # fmt: skip
def nothing_is_half_updated(bench: Bench, case: Case) -> None:
    """If the second layer is refused, the first one is unchanged.

    An optimizer that checks each layer just before its update leaves part of the model one step ahead. A caller who
    catches the error then continues with a mixed state. Source: a step is all or nothing in every backend here.
    """
    first, second = case.layers
    wrong = replace(second, grad=np.ones((2, 4), second.grad.dtype))
    bench.refuses(replace(case, layers=(first, wrong)), "a gradient of another shape in the second layer")


class _Wrong(NamedTuple):
    """A case to refuse."""

    what: str
    case: Case
    must: bool = True  # False: a backend may accept it


@prop(lambda c, d: of.cases(c, d, count=of.few(c, 2, [1, 2, 3]), hp=of.hyperparameters(c)),
      share=0.1, usual_graphs=True, about="interface")  # fmt: skip
def refusals_change_nothing(bench: Bench, case: Case) -> None:
    """A step that is refused changes nothing, and the next one is as if it had not been tried.

    The arrays and the step count are those that the backend itself returned, so a counter that is an array is seen,
    and so is one that the optimizer keeps to itself. Refused are hyperparameters, shapes, dtypes and step counts; what
    is wrong with an array is wrong in the last layer only. A user who catches the error, and trains on, would train
    from a mixed state. Source: `optimizer.step` increments its counters, or updates m, before its checks.
    """
    for i in range(len(_wrong(case, bench.claims))):
        new, after = bench.call(case, native(bench.adapter, case))
        answer = bench.answer(case, (new, after))
        following = follow(case, answer, [layer.grad for layer in case.layers])
        given: Given = (list(new), native(bench.adapter, following)[1], [LayerState(*state) for state in after])
        wrong = _wrong(following, bench.claims)[i]
        if bench.refuses(wrong.case, wrong.what, _with_own(bench, wrong.case, following, given), must=wrong.must):
            bench.conform(following, bench.answer(following, bench.call(following, given)))


def _wrong(case: Case, claims: Capabilities) -> list[_Wrong]:
    """Cases that differ from this one in a hyperparameter, t, or an array of the last layer."""
    last = case.layers[-1]
    wrong = [
        _Wrong("lr = nan", case.with_hp(lr=float("nan"))),
        _Wrong("beta2 = 1.0", case.with_hp(beta2=1.0)),
        _Wrong("eps = 1e-320", case.with_hp(eps=1e-320)),
    ]
    if claims.in_place:
        # The step would have the number 0, and divide by 1-β⁰ = 0: where that raises, it must be before any writing.
        wrong.append(_Wrong("t = -1", replace(case, t=-1), must=False))
    for name in ("grad", "m", "v"):
        x = getattr(last, name)
        changed: dict[str, Any] = {f"{name} of shape {(3, *x.shape)}": np.ones((3, *x.shape), x.dtype)}
        others = [FORMATS[dtype].numpy for dtype in claims.dtypes if FORMATS[dtype].numpy != x.dtype]
        if others and not last.is_complex:
            changed[f"{name} of dtype {others[0]}"] = np.ones(x.shape, others[0])
        for what, array in changed.items():
            layers = (*case.layers[:-1], replace(last, **{name: array}))
            wrong.append(_Wrong(f"{what} in the last layer", replace(case, layers=layers), must="shape" in what))
    return wrong


def _with_own(bench: Bench, wrong: Case, case: Case, given: Given) -> Given:
    """Native arrays for a wrong case: the given ones of the case, except where the two differ."""
    params, grads, states = map(list, given)
    _, new_grads, new_states = native(bench.adapter, replace(wrong, layers=wrong.layers[-1:]))
    last, right = wrong.layers[-1], case.layers[-1]
    own = states[-1]
    if last.grad is not right.grad:
        grads[-1] = new_grads[0]
    states[-1] = LayerState(
        own.m if last.m is right.m else new_states[0].m, own.v if last.v is right.v else new_states[0].v, own.t
    )
    return params, grads, [s if wrong.t == case.t else s._replace(t=wrong.t) for s in states]


@prop(
    lambda c, d: of.cases(c, d, t=st.sampled_from([1, 9, 999])),
    applies=lambda claims: bool(claims.reloads),
    share=0.3,
    usual_graphs=True,
    about="interface",
)
def reload_in_mid_run(bench: Bench, case: Case) -> None:
    """A state that is saved and loaded again (state_dict, pickle, deepcopy, files) has the same bits and step count.

    Source: torch casts float32 moments to a bfloat16 parameter's dtype on load (pytorch#43706), and optimizers that
    keep options in attributes lose them when pickled.
    """
    first = bench.step(case)
    following = replace(
        case,
        t=case.t + 1,
        layers=tuple(
            replace(x, param=p, m=s.m, v=s.v) for x, p, s in zip(case.layers, first.params, first.states, strict=True)
        ),
    )
    adapter: Any = bench.adapter
    for how in bench.claims.reloads:
        params, _, states = native(adapter, following)
        try:
            back = adapter.reload(how, params, states, dict(case.hp))
        except Exception as error:
            bench.fail(f"{how} raised {type(error).__name__}: {error}", case)
        for s, x in zip(back, following.layers, strict=True):
            m, v = bench.read(s.m), bench.read(s.v)
            bench.require(m.dtype == x.m.dtype and v.dtype == x.v.dtype, f"{how} changed a moment's dtype", case)
            bench.same_bits([m, v], [x.m, x.v], f"{how} changed a moment", case)
            bench.require(int(s.t) == following.t, f"{how} changed t from {following.t} to {s.t}", case)


@prop(of.cases, share=0.3, usual_graphs=True)
def paths_agree(bench: Bench, case: Case) -> None:
    """All paths of a backend (loop, foreach, fused, compiled, eager, jit) take the same step.

    The oracle judges each path and the next one on the same case, so two paths differ by at most the sum of their
    bounds. Source: pytorch_optimizer's foreach paths differed from its loops by up to 6.6e-2.
    """
    bench.conform(case)
    for peer in bench.peers:
        claims = peer.capabilities
        if case.dtype in claims.dtypes and claims.allows(case.needs):
            other = Bench(peer, case.dtype)
            other.conform(case, other.step(case))
