"""Layers that are spread over mapped axes, as inside `jax.shard_map`. Their reductions are collectives."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

Names = str | Sequence[str] | None
AxisName = Names | Callable[[Any, Any], Names]


class Across(NamedTuple):
    """The reductions that `setadam_core.layers.Layer` needs over the axes over which a layer is spread."""

    names: tuple[str, ...]

    @property
    def parts(self) -> int:
        """The number of parts of a layer. `shard_map` makes them of equal shape."""
        return math.prod(jax.lax.axis_size(name) for name in self.names)

    def sum(self, x: Any) -> Any:
        return jax.lax.psum(x, self.names)

    def min(self, x: Any) -> Any:
        return jax.lax.pmin(x, self.names)

    def max(self, x: Any) -> Any:
        return jax.lax.pmax(x, self.names)


def across_of(axis_name: AxisName, path: Any, leaf: Any) -> Across | None:
    """The axes over which the layers of one leaf are spread, or None if they are whole.

    Raises
    ------
    TypeError : ``axis_name`` is not a name, a sequence of names or None.
    ValueError : a name occurs twice, or is not a mapped axis here.
    """
    names = axis_name(path, leaf) if callable(axis_name) else axis_name
    if names is None:
        return None
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"axis_name must be None, a name or a tuple of names, got {names!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"axis_name must name each axis once, got {names!r}")
    for name in names:
        try:
            jax.lax.axis_size(name)
        except NameError:
            raise ValueError(
                f"axis_name must name axes that are mapped here, as by jax.shard_map, got {name!r}"
            ) from None
    return Across(tuple(names)) if names else None
