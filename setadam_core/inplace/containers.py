"""Nested lists, tuples and dicts of arrays, as one dict of arrays by name: "layers.0.weight"."""

from collections.abc import Callable, Mapping
from typing import Any

Array = Any
Leaf = Callable[[Any], Array | None]  # the array that a leaf stands for, or None for what is none


def flatten(tree: Any, what: str, leaf: Leaf) -> dict[str, Array]:
    """The arrays of a container by name, in the container's order.

    A name is the path of keys and indices, joined by dots. ``what`` says in errors what the arrays are.

    Raises
    ------
    TypeError : a container that is neither list, tuple nor mapping; a leaf that is no array.
    ValueError : two paths with one name.
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
            raise ValueError(f"{what} {name!r} is there twice: two paths of keys read alike")
        found[name] = array

    walk(tree, ())
    return found
