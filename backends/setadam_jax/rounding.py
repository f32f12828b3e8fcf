"""Stochastic rounding in optax's terms: an update after which a 16-bit parameter is one of its neighbours.

The random words are those of `setadam_core.rounding`. A leaf's index among the leaves of the parameters is its layer.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from setadam_core.rounding import FORMATS, random_words, signed, to_neighbours
from setadam_jax.state.finding import count_of, find
from setadam_jax.trees import Tree


def rounded_stochastically(
    inner: optax.GradientTransformationExtraArgs, seed: int
) -> optax.GradientTransformationExtraArgs:
    """`inner`, which holds a `scale_by_set_adam`, with updates after which 16-bit parameters are rounded at random."""

    def update(updates: Tree, state: Any, params: Tree | None = None, **extra: Any) -> tuple[Tree, Any]:
        if params is None:
            raise ValueError("update needs params with stochastic_rounding: what is rounded is params + updates")
        if jax.sharding.get_abstract_mesh().manual_axes:
            raise ValueError(
                "stochastic_rounding must be False inside jax.shard_map and jax.pmap, where a shard's place in the "
                "whole parameter is not known; jax.jit of sharded arrays rounds as on one device"
            )
        new, state = inner.update(updates, state, params, **extra)
        t = count_of(find(state))
        leaves, tree = jax.tree.flatten(params)
        pairs = enumerate(zip(leaves, tree.flatten_up_to(new), strict=True))
        return tree.unflatten([_rounded(param, u, seed, t, layer) for layer, (param, u) in pairs]), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _rounded(param: Any, update: Any, seed: int, t: Any, layer: int) -> Any:
    """The update of a leaf, in float32: what it adds up to with a 16-bit leaf is rounded to the neighbour drawn."""
    name = str(jnp.result_type(param))
    if name not in FORMATS:
        return update
    theta = jnp.asarray(param, jnp.float32)
    words = random_words(seed, t, layer, _indices(theta.shape))
    exact = to_neighbours(theta + update, name, words, jnp, _power_of_two) - theta
    return _with_derivatives_of(update, jnp.where(jnp.isfinite(theta), exact, update))


@jax.custom_jvp  # type: ignore[untyped-decorator]
def _with_derivatives_of(_: Any, value: Any) -> Any:
    """The value; rounding, which has no derivative, is left out of derivatives."""
    return value


@_with_derivatives_of.defjvp  # type: ignore[untyped-decorator]
def _(primals: Any, tangents: Any) -> Any:
    return primals[1], tangents[0]


def _indices(shape: tuple[int, ...]) -> Any:
    """The index of each coordinate, modulo 2³², in C order."""
    found = jnp.zeros(shape, jnp.int32)
    for axis, n in enumerate(shape):
        found = found * signed(n % 2**32) + jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    return found


def _power_of_two(size: Any, least: float, _: Any) -> Any:
    """`setadam_core.rounding.power_of_two_below`, from the bits."""
    bits = jax.lax.bitcast_convert_type(size, jnp.int32) & 0x7F800000
    return jnp.maximum(jax.lax.bitcast_convert_type(bits, jnp.float32), least)
