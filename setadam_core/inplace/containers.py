"""Nested lists, tuples and dicts of arrays, as one dict of arrays by name, such as "layers.0.weight"."""

from collections.abc import Callable, Mapping
from typing import Any

Array = Any
Leaf = Callable[[Any], Array | None]  # a leaf as an array, or None if it is not an array


def flatten(tree: Any, what: str, leaf: Leaf) -> dict[str, Array]:
    """The arrays of a container by name, in the container's order.

    A name is the path of keys and indices, joined by dots. ``what`` names the kind of arrays in errors.

    Raises
    ------
    TypeError : a container that is not a list, tuple or mapping; a leaf that is not an array.
    ValueError : two paths with the same name.
    """
    if not isinstance(tree, Mapping | list | tuple):
        raise TypeError(f"{what}s must be a list, tuple or dict of arrays, got {type(tree).__name__}")
    found: dict[str, Array] = {}

    def walk(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, Mapping | list | tuple):
            for key, child in node.items() if isinstance(node, Mapping) else enumerate(node):
                walk(child, (*path, str(key)))
            return
        name, array = ".".join(path), leaf(node)
        if array is None:
            raise TypeError(f"{what} {name!r} must be an array, got {type(node).__name__}")
        if name in found:
            raise ValueError(f"{what} {name!r} occurs twice: two paths of keys give this name")
        found[name] = array

    walk(tree, ())
    return found
