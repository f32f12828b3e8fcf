"""Seeded faults around the step: shared memory, error handling, reloading, and whole backends."""

from typing import Any

import ml_dtypes
import numpy as np

from setadam_conformance.protocol import LayerState
from setadam_conformance.teeth.faults.declare import SIXTEEN_BIT, answers, kind, stores
from setadam_conformance.teeth.reference import Layer, Reference, Rows
from setadam_core import Hyperparameters

R = Reference


fault = kind("aliasing")
fault(
    "first-gradient-for-all",
    "layers of one shape share a gradient buffer",
    load=lambda s, p, g, state, hp, axes: R.load(s, p, _buffer(s, g), state, hp, axes),
    step_all=lambda s, layers: (s.memory.clear(), R.step_all(s, layers))[1],
)
fault(
    "scratch-shared",
    "w of a shorter layer keeps the end of a longer layer's w",
    least=lambda s, c, w: _least_of_scratch(s, w),
)
fault("moments-one-buffer", "m and v are one buffer", store=stores(lambda old, new: new._replace(m=new.v)))
fault(
    "v-shared",
    "all layers of a shape get the last one's v",
    step=answers(
        lambda s, p, g, st, new, states: (
            new,
            [x._replace(v=states[-1].v) if x.v.shape == states[-1].v.shape else x for x in states],
        )
    ),
)
fault(
    "gamma-remembered",
    "γ is that of the previous call",
    gamma=lambda s, c, v: _remembered(s, "gamma", R.gamma(s, c, v)),
)
fault(
    "bias-remembered", "1-β₂ᵗ is formed once and kept", bias2=lambda s, c: s.memory.setdefault("bias2", R.bias2(s, c))
)
fault(
    "hyperparameters-remembered",
    "hyperparameters are those of the first call",
    hyperparameters=lambda s, hp: s.memory.setdefault("hp", R.hyperparameters(s, hp)),
)
fault(
    "gradient-written",
    "weight decay and maximize are written into the gradient",
    gradient=lambda s, c: _into(c, R.gradient(s, c)),
)
fault(
    "gradient-cleared",
    "the gradient is set to zero",
    step=answers(lambda s, p, g, st, new, states: (_clear(g), (new, states))[1]),
)
fault(
    "theta-written",
    "the parameter is written, without the claim `in_place`",
    step=answers(lambda s, p, g, st, new, states: ([_written(x, y) for x, y in zip(p, new, strict=True)], states)),
)
fault(
    "moments-written",
    "the moments are written, without the claim `in_place`",
    step=answers(
        lambda s, p, g, st, new, states: (
            [_written(a.m, b.m) for a, b in zip(st, states, strict=True)] and new,
            states,
        )
    ),
)

fault = kind("error handling")
_accepting: dict[str, tuple[str, Any]] = {
    "lr": ("negative η", 0.1),
    "beta1": ("β₁ ≥ 1, or negative", 0.5),
    "beta2": ("β₂ ≥ 1, or negative", 0.5),
    "eps": ("ε ≤ 0", 1e-8),
    "tau": ("τ ≥ 1, or negative", 0.5),
    "weight_decay": ("a negative λ", 0.0),
}


def _corrected(hp: Any, names: tuple[str, ...], only_nan: bool) -> dict[str, float]:
    return {k: _accepting[k][1] for k in names if not only_nan or hp[k] != hp[k]}


def _accepts(*names: str, only_nan: bool = False) -> dict[str, Any]:
    """Overrides that check a step as if these hyperparameters were valid, and then use their real values."""

    def hyperparameters(self: Reference, hp: Any) -> Hyperparameters:
        good = _corrected(hp, names, only_nan)
        return _unchecked(R.hyperparameters(self, {**hp, **good}), {k: float(hp[k]) for k in good})

    def check(self: Reference, param: Any, grad: Any, state: Any, hp: Any, axes: Any) -> None:
        R.check(self, param, grad, state, _unchecked(hp, _corrected(vars(hp), names, only_nan)), axes)

    return {"hyperparameters": hyperparameters, "check": check}


for _name, (_what, _) in _accepting.items():
    fault(f"accepts-bad-{_name.replace('_', '-')}", f"{_what}, is not refused", **_accepts(_name))
fault("accepts-any-hyperparameter", "no hyperparameter is checked", **_accepts(*_accepting))
fault(
    "accepts-nan-hyperparameter",
    "NaN passes checks such as `lr < 0`",
    **_accepts(*_accepting, only_nan=True),
)
fault(
    "accepts-tiny-eps",
    "an ε that underflows is not refused",
    check=lambda s, p, g, st, hp, axes: R.check(s, p, g, st, _unchecked(hp, {"eps": max(hp.eps, 1e-30)}), axes),
)
fault(
    "broadcasts-gradient",
    "a gradient that broadcasts is accepted",
    load=lambda s, p, g, st, hp, axes: R.load(s, p, _spread(g, p), st, hp, axes),
    check=lambda s, p, g, st, hp, axes: R.check(s, p, _spread(g, p), st, hp, axes),
)
fault(
    "reshapes-gradient",
    "a gradient of the same size is accepted in any shape",
    load=lambda s, p, g, st, hp, axes: R.load(s, p, g.reshape(p.shape) if g.size == p.size else g, st, hp, axes),
    check=lambda s, p, g, st, hp, axes: R.check(s, p, g.reshape(p.shape) if g.size == p.size else g, st, hp, axes),
)
fault(
    "broadcasts-moments",
    "moments that broadcast are accepted",
    load=lambda s, p, g, st, hp, axes: R.load(s, p, g, _spread_state(st, g), hp, axes),
    check=lambda s, p, g, st, hp, axes: R.check(s, p, g, _spread_state(st, g), hp, axes),
)
fault(
    "half-updated",
    "in place, each layer is checked only just before its update",
    step=lambda s, p, g, st, hp, axes: _one_by_one(s, p, g, st, hp, axes),
)
fault(
    "written-before-checked",
    "the gradient is negated in place before hyperparameters are checked",
    step=lambda s, p, g, st, hp, axes: (
        [np.negative(x, out=x) for x in g],
        R.step(s, p, [-x for x in g], st, hp, axes),
        [np.negative(x, out=x) for x in g],
    )[1],
)
fault("nan-swallowed", "nan_to_num on the gradient", gradient=lambda s, c: np.nan_to_num(R.gradient(s, c)))
fault(
    "nan-stays-elementwise",
    "NaN is left out of the sums and the minimum",
    gamma=lambda s, c, v: R.gamma(s, c, np.nan_to_num(v, posinf=0)),
    least=lambda s, c, w: np.nanmin(w, axis=1, keepdims=True),
)
fault(
    "nan-left-out-of-minimum",
    "NaN is left out of the minimum, which shows where γ does not spread it",
    least=lambda s, c, w: np.fmin.reduce(w, axis=1, keepdims=True),
)
fault(
    "nan-poisons-others",
    "one NaN makes every layer NaN",
    step=answers(
        lambda s, p, g, st, new, states: (
            [x * np.nan if any(np.isnan(y.astype(complex)).any() for y in new) else x for x in new],
            states,
        )
    ),
)
fault(
    "nan-skips-the-step",
    "a layer with NaN is not changed",
    step_layer=lambda s, c: (
        (c.given[0], c.given[2]._replace(t=c.t)) if not np.isfinite(c.g).all() else R.step_layer(s, c)
    ),
)
fault(
    "infinity-clipped",
    "±Inf becomes the format's largest number",
    ("float16",),
    "in the other dtypes, the square of the largest number overflows to NaN",
    gradient=lambda s, c: np.clip(R.gradient(s, c), -65504, 65504),
)

fault = kind("reload")
fault(
    "reload-16-bit",
    "moments are stored as bfloat16",
    reload=lambda s, how, p, st, hp: [a._replace(m=_narrowed(a.m), v=_narrowed(a.v)) for a in st],
)
fault(
    "reload-parameter-dtype",
    "moments are cast to the parameter's dtype",
    SIXTEEN_BIT,
    "in the other dtypes, that is the compute format",
    reload=lambda s, how, p, st, hp: [
        LayerState(a.m.astype(x.dtype), a.v.astype(x.dtype), a.t) for a, x in zip(st, p, strict=True)
    ],
)
fault("reload-resets-t", "t starts again at 0", reload=lambda s, how, p, st, hp: [a._replace(t=0) for a in st])
fault(
    "reload-swaps-moments",
    "m and v are swapped",
    reload=lambda s, how, p, st, hp: [LayerState(a.v, a.m, a.t) for a in st],
)
fault(
    "reload-loses-moments",
    "moments start again at 0",
    reload=lambda s, how, p, st, hp: [LayerState(a.m * 0, a.v * 0, a.t) for a in st],
)
fault("reload-raises", "loading raises an error", reload=lambda s, how, p, st, hp: st[len(st)])

fault = kind("whole backend")
fault("no-op", "only t advances", step=lambda s, p, g, st, hp, axes: (list(p), [x._replace(t=x.t + 1) for x in st]))
fault("returns-inputs", "nothing happens", step=lambda s, p, g, st, hp, axes: (list(p), list(st)))
fault("always-raises", "every call raises an error", step=lambda s, *args: dict[str, Any]()["step"])
fault(
    "all-nan",
    "every number is NaN",
    step=answers(
        lambda s, p, g, st, new, states: (
            [x * np.nan for x in new],
            [LayerState(x.m * np.nan, x.v * np.nan, x.t) for x in states],
        )
    ),
)
fault("all-nan-theta", "θ is NaN", step=answers(lambda s, p, g, st, new, states: ([x * np.nan for x in new], states)))
fault(
    "all-zero",
    "every number is 0",
    step=answers(
        lambda s, p, g, st, new, states: ([x * 0 for x in new], [LayerState(x.m * 0, x.v * 0, x.t) for x in states])
    ),
)
fault(
    "random",
    "θ is off by a random unit or two in the last place, different at each call",
    subtract=lambda s, c, theta, u: _shaken(s, theta - u),
)
fault(
    "answers-late",
    "the result is that of the previous call",
    step=answers(lambda s, p, g, st, new, states: _late(s, new, states)),
)
fault(
    "adam",
    "plain Adam: without S and T, and with ε outside the root",
    scale=lambda s, c, v: v,
    translate=lambda s, c, w: w,
    embed=lambda s, c, x: np.sqrt(x) + c.hp.eps,
)
fault("adam-with-eps-root", "without S and T", scale=lambda s, c, v: v, translate=lambda s, c, w: w)
fault("gradient-descent", "θ - ηg", update=lambda s, c, m, w: c.hp.lr * s.gradient(c))
fault(
    "flattened-model",
    "all layers are one",
    scale=lambda s, c, v: _flat_gamma(s, c) * v,
    least=lambda s, c, w: np.min(
        [np.min(s.denominator(o, s.scale(o, s.moment2(o, s.gradient(o))))) for o in c.call if o.v.size]
    ),
)


def _buffer(self: Reference, g: Any) -> Any:
    return self.memory.setdefault((g.shape, g.dtype.kind), g)


def _least_of_scratch(self: Reference, w: Rows) -> Rows:
    """The minimum over a buffer as long as the longest layer so far; w fills only its front."""
    longest = self.memory.get("w", w[:1, :0])
    stale = np.repeat(longest[:1, w.shape[1] :].astype(w.dtype), len(w), axis=0)
    self.memory["w"] = np.concatenate([w, stale], axis=1)
    return np.min(self.memory["w"], axis=1, keepdims=True)


def _remembered(self: Reference, name: str, value: Any) -> Any:
    """The value of the previous call; this call's value if there was none, or if shapes differ."""
    before = self.memory.get(name, value)
    self.memory[name] = value
    return before if before.shape == value.shape and before.dtype == value.dtype else value


def _late(self: Reference, params: Any, states: Any) -> Any:
    before = self.memory.get("answer", (params, states))
    self.memory["answer"] = (params, states)
    same = [(x.shape, x.dtype) for x in before[0]] == [(x.shape, x.dtype) for x in params]
    return before if same else (params, states)


def _narrowed(x: Any) -> Any:
    return x.astype(ml_dtypes.bfloat16).astype(x.dtype)


def _into(c: Layer, g: Rows) -> Rows:
    given = c.given[1]
    if g.dtype == given.dtype and g.size == given.size:
        given[...] = g.reshape(given.shape)
    elif given.dtype.kind != "c":
        given[...] = g.astype(given.dtype).reshape(given.shape)
    return g


def _clear(arrays: Any) -> bool:
    for x in arrays:
        x[...] = 0
    return True


def _written(old: Any, new: Any) -> Any:
    """The old array, overwritten with the new values."""
    old[...] = new
    return old


def _unchecked(hp: Hyperparameters, changes: dict[str, float]) -> Hyperparameters:
    new = object.__new__(Hyperparameters)
    new.__dict__.update({**hp.__dict__, **changes})
    return new


def _spread(x: Any, like: Any) -> Any:
    """The array broadcast to a shape if possible, otherwise unchanged."""
    try:
        return np.broadcast_to(x, like.shape)
    except ValueError:
        return x


def _spread_state(state: LayerState, like: Any) -> LayerState:
    return state if like.dtype.kind == "c" else LayerState(_spread(state.m, like), _spread(state.v, like), state.t)


def _one_by_one(self: Reference, params: Any, grads: Any, states: Any, hp: Any, axes: Any) -> Any:
    new = []
    for p, g, state, own in zip(params, grads, states, axes, strict=True):
        (param,), (after,) = R.step(self, [p], [g], [state], hp, [own])
        p[...] = param
        new.append(after)
    return list(params), new


def _shaken(self: Reference, theta: Rows) -> Rows:
    rng = self.memory.setdefault("rng", np.random.default_rng(0))
    return theta * (1 + rng.integers(-2, 3, theta.shape) * float(np.finfo(theta.dtype).eps)).astype(theta.dtype)


def _flat_gamma(self: Reference, c: Layer) -> Rows:
    v = np.concatenate([self.moment2(o, self.gradient(o)).ravel() for o in c.call])[None]
    return R.gamma(self, Layer(**{**c.__dict__, "v": v}), v)
