"""Seeded faults around the formulas: state, layout, block tails, memory, errors, and whole backends."""

from typing import Any

import ml_dtypes
import numpy as np

from setadam_conformance.protocol import LayerState
from setadam_conformance.teeth.reference import Layer, Reference, Rows
from setadam_conformance.teeth.seeded import COMPUTED_IN_FLOAT32, REAL, SIXTEEN_BIT, kind
from setadam_core import Hyperparameters

R = Reference


def _answers(change: Any) -> Any:
    """A `step` that changes the right answer: change(adapter, params, grads, states, new params, new states)."""

    def step(self: Reference, params: Any, grads: Any, states: Any, hp: Any, axes: Any) -> Any:
        return change(self, params, grads, states, *R.step(self, params, grads, states, hp, axes))

    return step


def _stores(change: Any) -> Any:
    """A `store` that changes the state that is returned: change(old, new) -> new."""

    def store(self: Reference, c: Layer, theta: Rows, m: Rows, v: Rows) -> Any:
        param, state = R.store(self, c, theta, m, v)
        return param, change(c.given[2], state)

    return store


def _tail(d: int, block: int) -> int:
    """How many coordinates are in full blocks; all, where there is not one."""
    return d // block * block or d


def _keep(new: Rows, old: Rows, start: int) -> Rows:
    """New up to a coordinate, old from there on."""
    return np.concatenate([new[:, :start], np.broadcast_to(old, new.shape)[:, start:]], axis=1)


fault = kind("state order")
fault(
    "state-swapped",
    "m and v are returned in each other's place",
    store=_stores(lambda old, new: new._replace(m=new.v, v=new.m)),
)
fault(
    "state-read-swapped",
    "m and v are read in each other's place",
    load=lambda s, p, g, state, hp, axes: R.load(s, p, g, state._replace(m=state.v, v=state.m), hp, axes),
)
fault("t-not-advanced", "t stays", store=_stores(lambda old, new: new._replace(t=old.t)))
fault("t-advanced-twice", "t goes up by 2", store=_stores(lambda old, new: new._replace(t=new.t + 1)))
fault(
    "t-advanced-by-layer",
    "one counter for all, raised by each layer",
    step_layer=lambda s, c: R.step_layer(s, Layer(**{**c.__dict__, "t": c.t + _position(c)})),
)
fault(
    "t-float32", "t is kept in float32, which has no 2²⁴ + 1", advance=lambda s, t: int(np.float32(t) + np.float32(1))
)
fault("m-not-stored", "m is returned as it came", store=_stores(lambda old, new: new._replace(m=old.m)))
fault("v-not-stored", "v is returned as it came", store=_stores(lambda old, new: new._replace(v=old.v)))
fault("theta-not-stored", "θ is returned as it came", step=_answers(lambda s, p, g, st, new, states: (list(p), states)))
fault(
    "layers-reversed",
    "the layers' parameters come back in reverse",
    step=_answers(lambda s, p, g, st, new, states: (new[::-1], states) if _alike(new) else (new, states)),
)
fault(
    "states-rotated",
    "the layers' states come back one place on",
    step=_answers(lambda s, p, g, st, new, states: (new, states[1:] + states[:1]) if _alike(new) else (new, states)),
)

fault = kind("layout")
fault(
    "update-transposed",
    "the update of a square matrix is transposed",
    update=lambda s, c, m, w: _square(c, R.update(s, c, m, w)),
)
fault(
    "strides-ignored",
    "memory is read in its own order",
    load=lambda s, p, g, state, hp, axes: R.load(
        s,
        _in_memory_order(p),
        _in_memory_order(g),
        state._replace(m=_in_memory_order(state.m), v=_in_memory_order(state.v)),
        hp,
        axes,
    ),
)
fault(
    "gradient-strides-ignored",
    "the gradient is read as if it were transposed",
    load=lambda s, p, g, state, hp, axes: R.load(s, p, g.T.reshape(g.shape), state, hp, axes),
)
fault(
    "scalar-becomes-vector",
    "a 0-d parameter comes back with one axis",
    step=_answers(lambda s, p, g, st, new, states: ([np.atleast_1d(x) for x in new], states)),
)
fault(
    "flattened",
    "parameters come back flat",
    step=_answers(lambda s, p, g, st, new, states: ([x.ravel() for x in new], states)),
)
fault(
    "scalar-skipped",
    "0-d parameters are not updated",
    update=lambda s, c, m, w: R.update(s, c, m, w) * bool(c.given[0].ndim),
)
fault(
    "layer-axes-ignored",
    "one γ and one minimum for a stack of layers",
    load=lambda s, p, g, state, hp, axes: R.load(s, p, g, state, hp, None),
)
fault(
    "layer-axes-complement",
    "statistics over the other axes",
    load=lambda s, p, g, state, hp, axes: R.load(
        s, p, g, state, hp, axes and tuple(i for i in range(p.ndim) if i not in axes)
    ),
)
fault(
    "complex-modulus",
    "|g|² for both parts of a complex gradient",
    REAL,
    "16-bit formats have no complex twin",
    moment2=lambda s, c, g: R.moment2(s, c, _modulus(c, g)),
)
fault(
    "complex-parts-apart",
    "real and imaginary parts are two layers",
    REAL,
    "16-bit formats have no complex twin",
    gamma=lambda s, c, v: _parts(c, v, lambda x: R.gamma(s, Layer(**{**c.__dict__, "v": x}), x)),
)
fault(
    "complex-conjugated",
    "the gradient is conjugated",
    REAL,
    "16-bit formats have no complex twin",
    load=lambda s, p, g, *rest: R.load(s, p, np.conj(g).astype(g.dtype) if g.dtype.kind == "c" else g, *rest),
)
fault(
    "complex-imaginary-lost",
    "the imaginary part is not updated",
    REAL,
    "16-bit formats have no complex twin",
    update=lambda s, c, m, w: R.update(s, c, m, w) * _real_part(c, m),
)
fault(
    "empty-raises",
    "the minimum of an empty array raises",
    step_layer=lambda s, c: np.min(c.v) if c.v.size == 0 else R.step_layer(s, c),
)
fault(
    "empty-reshaped",
    "empty arrays come back flat",
    step=_answers(lambda s, p, g, st, new, states: ([x if x.size else x.ravel() for x in new], states)),
)
fault(
    "theta-widened",
    "16-bit parameters come back in float32",
    SIXTEEN_BIT,
    "the others are in their compute format",
    step=_answers(lambda s, p, g, st, new, states: ([x.astype(np.float32) for x in new], states)),
)
fault(
    "moments-narrowed",
    "moments come back in the parameter's 16 bits",
    SIXTEEN_BIT,
    "elsewhere that is the compute format",
    step=_answers(
        lambda s, p, g, st, new, states: (
            new,
            [x._replace(m=x.m.astype(new[0].dtype), v=x.v.astype(new[0].dtype)) for x in states],
        )
    ),
)
fault(
    "moments-widened",
    "moments come back in float64",
    COMPUTED_IN_FLOAT32,
    "float64 is right there",
    store=_stores(lambda old, new: new._replace(m=new.m.astype(np.float64), v=new.v.astype(np.float64))),
)
fault(
    "conversion-float16",
    "arrays are converted through float16",
    ("float64", "float32", "bfloat16"),
    "float16 is right there",
    from_numpy=lambda s, x: x.astype(np.float16).astype(x.dtype) if x.dtype.kind != "c" else x.copy(),
)

fault = kind("block tails")
fault(
    "tail-not-updated",
    "what is left over of blocks of 8 is not updated",
    subtract=lambda s, c, theta, u: _keep(theta - u, theta, _tail(c.d, 8)),
)
fault(
    "tail-not-in-sum",
    "what is left over of blocks of 8 is not summed",
    sum=lambda s, c, x: R.sum(s, c, x[:, : _tail(c.d, 8)]),
)
fault(
    "tail-not-in-minimum",
    "what is left over of blocks of 8 is not in the minimum",
    least=lambda s, c, w: R.least(s, c, w[:, : _tail(c.d, 8)]),
)
fault(
    "tail-of-4-not-in-moments",
    "what is left over of blocks of 4 keeps its moments",
    moment1=lambda s, c, g: _keep(R.moment1(s, c, g), c.m, _tail(c.d, 4)),
)
fault(
    "tail-summed-twice",
    "the last block of 8 overlaps the one before",
    sum=lambda s, c, x: R.sum(s, c, x) + (R.sum(s, c, x[:, -8:][:, : -(c.d % 8)]) if c.d > 8 and c.d % 8 else 0),
)
fault("last-not-in-sum", "the last coordinate is not summed", sum=lambda s, c, x: R.sum(s, c, x[:, : max(c.d - 1, 1)]))
fault(
    "last-not-in-minimum",
    "the last coordinate is not in the minimum",
    least=lambda s, c, w: R.least(s, c, w[:, : max(c.d - 1, 1)]),
)
fault(
    "last-not-updated",
    "the last coordinate is not updated",
    subtract=lambda s, c, theta, u: _keep(theta - u, theta, max(c.d - 1, 1)),
)
fault(
    "first-not-in-minimum",
    "the first coordinate is not in the minimum",
    least=lambda s, c, w: R.least(s, c, w[:, min(1, c.d - 1) :]),
)
fault(
    "one-block-only",
    "only the first 256 coordinates are updated",
    subtract=lambda s, c, theta, u: _keep(theta - u, theta, 256),
)
fault("sum-of-one-block", "only the first 256 coordinates are summed", sum=lambda s, c, x: R.sum(s, c, x[:, :256]))
fault(
    "minimum-of-one-block",
    "the minimum is each block's of 64, not the layer's",
    least=lambda s, c, w: np.repeat(np.minimum.reduceat(w, np.arange(0, c.d, 64), axis=1), 64, axis=1)[:, : c.d],
)
fault(
    "index-16-bit",
    "coordinates from 2¹⁶ on are not updated",
    subtract=lambda s, c, theta, u: _keep(theta - u, theta, 65536),
)

fault = kind("aliasing")
fault(
    "first-gradient-for-all",
    "layers of one shape share a gradient buffer",
    load=lambda s, p, g, state, hp, axes: R.load(s, p, _buffer(s, g), state, hp, axes),
    step_all=lambda s, layers: (s.memory.clear(), R.step_all(s, layers))[1],
)
fault(
    "scratch-shared",
    "w of a shorter layer keeps the tail of a longer one's",
    least=lambda s, c, w: _least_of_scratch(s, w),
)
fault("moments-one-buffer", "m and v are one buffer", store=_stores(lambda old, new: new._replace(m=new.v)))
fault(
    "v-shared",
    "all layers of a shape get the last one's v",
    step=_answers(
        lambda s, p, g, st, new, states: (
            new,
            [x._replace(v=states[-1].v) if x.v.shape == states[-1].v.shape else x for x in states],
        )
    ),
)
fault(
    "gamma-remembered", "γ is that of the call before", gamma=lambda s, c, v: _remembered(s, "gamma", R.gamma(s, c, v))
)
fault(
    "bias-remembered", "1-β2ᵗ is formed once and kept", bias2=lambda s, c: s.memory.setdefault("bias2", R.bias2(s, c))
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
    step=_answers(lambda s, p, g, st, new, states: (_clear(g), (new, states))[1]),
)
fault(
    "theta-written",
    "the parameter is written, though not claimed",
    step=_answers(lambda s, p, g, st, new, states: ([_written(x, y) for x, y in zip(p, new, strict=True)], states)),
)
fault(
    "moments-written",
    "the moments are written, though not claimed",
    step=_answers(
        lambda s, p, g, st, new, states: (
            [_written(a.m, b.m) for a, b in zip(st, states, strict=True)] and new,
            states,
        )
    ),
)

fault = kind("error handling")
_accepting: dict[str, tuple[str, Any]] = {
    "lr": ("negative η", 0.1),
    "beta1": ("β1 = 1 and more, or negative", 0.5),
    "beta2": ("β2 = 1 and more, or negative", 0.5),
    "eps": ("ε ≤ 0", 1e-8),
    "tau": ("τ = 1 and more, or negative", 0.5),
    "weight_decay": ("a negative λ", 0.0),
}


def _corrected(hp: Any, names: tuple[str, ...], only_nan: bool) -> dict[str, float]:
    return {k: _accepting[k][1] for k in names if not only_nan or hp[k] != hp[k]}


def _accepts(*names: str, only_nan: bool = False) -> dict[str, Any]:
    """Overrides that check a step as if these hyperparameters were good, and take it with what they are."""

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
    "NaN passes comparisons written the wrong way round",
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
    "in place, each layer is checked when it is its turn",
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
    "nan-poisons-others",
    "one NaN makes every layer NaN",
    step=_answers(
        lambda s, p, g, st, new, states: (
            [x * np.nan if any(np.isnan(y.astype(complex)).any() for y in new) else x for x in new],
            states,
        )
    ),
)
fault(
    "nan-skips-the-step",
    "a layer with NaN is left as it was",
    step_layer=lambda s, c: (
        (c.given[0], c.given[2]._replace(t=c.t)) if not np.isfinite(c.g).all() else R.step_layer(s, c)
    ),
)
fault(
    "infinity-clipped",
    "±Inf becomes the format's largest number",
    ("float16",),
    "the square of the largest overflows elsewhere, to NaN",
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
    "elsewhere that is the compute format",
    reload=lambda s, how, p, st, hp: [
        LayerState(a.m.astype(x.dtype), a.v.astype(x.dtype), a.t) for a, x in zip(st, p, strict=True)
    ],
)
fault("reload-resets-t", "t starts again", reload=lambda s, how, p, st, hp: [a._replace(t=0) for a in st])
fault(
    "reload-swaps-moments",
    "m and v change places",
    reload=lambda s, how, p, st, hp: [LayerState(a.v, a.m, a.t) for a in st],
)
fault(
    "reload-loses-moments",
    "moments start again",
    reload=lambda s, how, p, st, hp: [LayerState(a.m * 0, a.v * 0, a.t) for a in st],
)
fault("reload-raises", "the state cannot be read back", reload=lambda s, how, p, st, hp: st[len(st)])

fault = kind("whole backend")
fault("no-op", "only t goes on", step=lambda s, p, g, st, hp, axes: (list(p), [x._replace(t=x.t + 1) for x in st]))
fault("returns-inputs", "nothing happens", step=lambda s, p, g, st, hp, axes: (list(p), list(st)))
fault("always-raises", "no call succeeds", step=lambda s, *args: dict[str, Any]()["step"])
fault(
    "all-nan",
    "every number is NaN",
    step=_answers(
        lambda s, p, g, st, new, states: (
            [x * np.nan for x in new],
            [LayerState(x.m * np.nan, x.v * np.nan, x.t) for x in states],
        )
    ),
)
fault("all-nan-theta", "θ is NaN", step=_answers(lambda s, p, g, st, new, states: ([x * np.nan for x in new], states)))
fault(
    "all-zero",
    "every number is 0",
    step=_answers(
        lambda s, p, g, st, new, states: ([x * 0 for x in new], [LayerState(x.m * 0, x.v * 0, x.t) for x in states])
    ),
)
fault(
    "random",
    "θ is off by a random last place or two, another at each call",
    subtract=lambda s, c, theta, u: _shaken(s, theta - u),
)
fault(
    "answers-late",
    "the answer is that of the call before",
    step=_answers(lambda s, p, g, st, new, states: _late(s, new, states)),
)
fault(
    "adam",
    "Adam as it was, without S, T, and with ε outside",
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


def _position(c: Layer) -> int:
    return next(i for i, other in enumerate(c.call) if other.given is c.given)


def _alike(arrays: list[Any]) -> bool:
    return len({x.shape for x in arrays}) == 1


def _square(c: Layer, update: Rows) -> Rows:
    shape = c.given[0].shape
    if len(shape) != 2 or shape[0] != shape[1] or update.size != shape[0] ** 2:
        return update
    return update.reshape(shape).T.reshape(update.shape)


def _in_memory_order(x: Any) -> Any:
    return x.ravel(order="K").reshape(x.shape)


def _is_complex(c: Layer) -> bool:
    return bool(c.given[0].dtype.kind == "c")


def _modulus(c: Layer, g: Rows) -> Rows:
    if not _is_complex(c):
        return g
    pairs = g.reshape(len(g), -1, 2)
    return np.repeat(np.sqrt(np.sum(pairs * pairs, axis=2)), 2, axis=1)


def _parts(c: Layer, v: Rows, gamma: Any) -> Rows:
    """γ of the even and of the odd coordinates, each for its own."""
    if not _is_complex(c):
        return np.asarray(gamma(v))
    out = np.empty_like(v)
    for part in (0, 1):
        out[:, part::2] = gamma(v[:, part::2])
    return out


def _real_part(c: Layer, x: Rows) -> Rows:
    mask = np.ones_like(x)
    if _is_complex(c):
        mask[:, 1::2] = 0
    return mask


def _buffer(self: Reference, g: Any) -> Any:
    return self.memory.setdefault((g.shape, g.dtype.kind), g)


def _least_of_scratch(self: Reference, w: Rows) -> Rows:
    """The minimum over a buffer as long as the longest layer so far, of which w fills the front."""
    longest = self.memory.get("w", w[:1, :0])
    stale = np.repeat(longest[:1, w.shape[1] :].astype(w.dtype), len(w), axis=0)
    self.memory["w"] = np.concatenate([w, stale], axis=1)
    return np.min(self.memory["w"], axis=1, keepdims=True)


def _remembered(self: Reference, name: str, value: Any) -> Any:
    """The value of the call before; of this one at first, or where shapes differ."""
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
    """The old array, holding what the new one holds."""
    old[...] = new
    return old


def _unchecked(hp: Hyperparameters, changes: dict[str, float]) -> Hyperparameters:
    new = object.__new__(Hyperparameters)
    new.__dict__.update({**hp.__dict__, **changes})
    return new


def _spread(x: Any, like: Any) -> Any:
    """Broadcast to a shape where that is possible, and as it is where not."""
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
