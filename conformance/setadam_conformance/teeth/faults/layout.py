"""Seeded faults in the layout of state and arrays: their order, their axes, the ends of blocks."""

from typing import Any

import numpy as np

from setadam_conformance.teeth.faults.declare import COMPUTED_IN_FLOAT32, REAL, SIXTEEN_BIT, answers, kind, stores
from setadam_conformance.teeth.reference import Layer, Reference, Rows

R = Reference


def _tail(d: int, block: int) -> int:
    """The number of coordinates in full blocks; all of them if there is no full block."""
    return d // block * block or d


def _keep(new: Rows, old: Rows, start: int) -> Rows:
    """New values up to a coordinate, old values from there on."""
    return np.concatenate([new[:, :start], np.broadcast_to(old, new.shape)[:, start:]], axis=1)


fault = kind("state order")
fault(
    "state-swapped",
    "m and v are returned swapped",
    store=stores(lambda old, new: new._replace(m=new.v, v=new.m)),
)
fault(
    "state-read-swapped",
    "m and v are read swapped",
    load=lambda s, p, g, state, hp, axes: R.load(s, p, g, state._replace(m=state.v, v=state.m), hp, axes),
)
fault("t-not-advanced", "t does not advance", store=stores(lambda old, new: new._replace(t=old.t)))
fault("t-advanced-twice", "t goes up by 2", store=stores(lambda old, new: new._replace(t=new.t + 1)))
fault(
    "t-advanced-by-layer",
    "one counter for all layers, which each layer advances",
    step_layer=lambda s, c: R.step_layer(s, Layer(**{**c.__dict__, "t": c.t + _position(c)})),
)
fault(
    "t-float32",
    "t is kept in float32, which cannot hold 2²⁴ + 1",
    advance=lambda s, t: int(np.float32(t) + np.float32(1)),
)
fault("m-not-stored", "m is returned unchanged", store=stores(lambda old, new: new._replace(m=old.m)))
fault("v-not-stored", "v is returned unchanged", store=stores(lambda old, new: new._replace(v=old.v)))
fault("theta-not-stored", "θ is returned unchanged", step=answers(lambda s, p, g, st, new, states: (list(p), states)))
fault(
    "layers-reversed",
    "the layers' parameters are returned in reverse order",
    step=answers(lambda s, p, g, st, new, states: (new[::-1], states) if _alike(new) else (new, states)),
)
fault(
    "states-rotated",
    "the layers' states are returned one place further",
    step=answers(lambda s, p, g, st, new, states: (new, states[1:] + states[:1]) if _alike(new) else (new, states)),
)

fault = kind("layout")
fault(
    "update-transposed",
    "the update of a square matrix is transposed",
    update=lambda s, c, m, w: _square(c, R.update(s, c, m, w)),
)
fault(
    "strides-ignored",
    "arrays are read in memory order",
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
    "a 0-d parameter is returned with one axis",
    step=answers(lambda s, p, g, st, new, states: ([np.atleast_1d(x) for x in new], states)),
)
fault(
    "flattened",
    "parameters are returned flat",
    step=answers(lambda s, p, g, st, new, states: ([x.ravel() for x in new], states)),
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
    "16-bit formats have no complex dtype",
    moment2=lambda s, c, g: R.moment2(s, c, _modulus(c, g)),
)
fault(
    "complex-parts-apart",
    "real and imaginary parts are two layers",
    REAL,
    "16-bit formats have no complex dtype",
    gamma=lambda s, c, v: _parts(c, v, lambda x: R.gamma(s, Layer(**{**c.__dict__, "v": x}), x)),
)
fault(
    "complex-conjugated",
    "the gradient is conjugated",
    REAL,
    "16-bit formats have no complex dtype",
    load=lambda s, p, g, *rest: R.load(s, p, np.conj(g).astype(g.dtype) if g.dtype.kind == "c" else g, *rest),
)
fault(
    "complex-imaginary-lost",
    "the imaginary part is not updated",
    REAL,
    "16-bit formats have no complex dtype",
    update=lambda s, c, m, w: R.update(s, c, m, w) * _real_part(c, m),
)
fault(
    "empty-raises",
    "the minimum of an empty array raises",
    step_layer=lambda s, c: np.min(c.v) if c.v.size == 0 else R.step_layer(s, c),
)
fault(
    "empty-reshaped",
    "empty arrays are returned flat",
    step=answers(lambda s, p, g, st, new, states: ([x if x.size else x.ravel() for x in new], states)),
)
fault(
    "theta-widened",
    "16-bit parameters are returned in float32",
    SIXTEEN_BIT,
    "the other dtypes are their own compute format",
    step=answers(lambda s, p, g, st, new, states: ([x.astype(np.float32) for x in new], states)),
)
fault(
    "moments-narrowed",
    "moments are returned in the parameter's 16-bit format",
    SIXTEEN_BIT,
    "in the other dtypes, that is the compute format",
    step=answers(
        lambda s, p, g, st, new, states: (
            new,
            [x._replace(m=x.m.astype(new[0].dtype), v=x.v.astype(new[0].dtype)) for x in states],
        )
    ),
)
fault(
    "moments-widened",
    "moments are returned in float64",
    COMPUTED_IN_FLOAT32,
    "float64 is right in that dtype",
    store=stores(lambda old, new: new._replace(m=new.m.astype(np.float64), v=new.v.astype(np.float64))),
)
fault(
    "conversion-float16",
    "arrays are converted through float16",
    ("float64", "float32", "bfloat16"),
    "float16 is right in that dtype",
    from_numpy=lambda s, x: x.astype(np.float16).astype(x.dtype) if x.dtype.kind != "c" else x.copy(),
)

fault = kind("block tails")
fault(
    "tail-not-updated",
    "coordinates after the last full block of 8 are not updated",
    subtract=lambda s, c, theta, u: _keep(theta - u, theta, _tail(c.d, 8)),
)
fault(
    "tail-not-in-sum",
    "coordinates after the last full block of 8 are not summed",
    sum=lambda s, c, x: R.sum(s, c, x[:, : _tail(c.d, 8)]),
)
fault(
    "tail-not-in-minimum",
    "coordinates after the last full block of 8 are not in the minimum",
    least=lambda s, c, w: R.least(s, c, w[:, : _tail(c.d, 8)]),
)
fault(
    "tail-of-4-not-in-moments",
    "coordinates after the last full block of 4 keep their moments",
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
    """γ of the even coordinates for the even ones, and γ of the odd coordinates for the odd ones."""
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
