"""Nested lists, tuples and dicts of arrays, as one dict of arrays by name, such as "layers.0.weight"."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

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
    for path, node in _leaves(tree, ()):
        name, array = ".".join(path), leaf(node)
        if array is None:
            raise TypeError(f"{what} {name!r} must be an array, got {type(node).__name__}")
        if name in found:
            raise ValueError(f"{what} {name!r} occurs twice: two paths of keys give this name")
        found[name] = array
    return found


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each leaf with its path. It is not inside `flatten`, where it would form a cycle that keeps the arrays alive."""
    if not isinstance(node, Mapping | list | tuple):
        yield path, node
        return
    for key, child in node.items() if isinstance(node, Mapping) else enumerate(node):
        yield from _leaves(child, (*path, str(key)))


class Outline(NamedTuple):
    """The nesting of a container without its arrays: another one of the same outline has the same names, in the same
    order, and need not be walked leaf by leaf.
    """

    kind: type
    keys: list[Any]  # of a dict, otherwise none
    length: int
    inner: "dict[int, Outline]"  # the containers in it, by position

    @classmethod
    def of(cls, tree: Any) -> "Outline | None":
        """None for mappings other than dict, and for keys of which equal ones may have different names."""
        if type(tree) is not dict and not isinstance(tree, list | tuple):
            return None
        keys, items = _entries(tree)
        if not set(map(type, keys)) <= {str, int}:
            return None
        inner = {i: cls.of(x) for i, x in enumerate(items) if isinstance(x, Mapping | list | tuple)}
        known = {i: outline for i, outline in inner.items() if outline is not None}
        return cls(type(tree), keys, len(items), known) if len(known) == len(inner) else None

    def leaves(self, tree: Any) -> list[Any] | None:
        """What is in the places of the arrays, or None for a container of another outline."""
        if type(tree) is not self.kind:
            return None
        keys, items = _entries(tree)
        # The types first: a str is equal to nothing else, but an instance of a subclass may have another name.
        if len(items) != self.length or list(map(type, keys)) != list(map(type, self.keys)) or keys != self.keys:
            return None
        if not self.inner:
            return items
        found: list[Any] = []
        for i, item in enumerate(items):
            if (outline := self.inner.get(i)) is None:
                found.append(item)
            elif (leaves := outline.leaves(item)) is None:
                return None
            else:
                found += leaves
        return found


def _entries(tree: Any) -> tuple[list[Any], list[Any]]:
    """The keys of a dict, and what is in it; for a list or tuple no keys."""
    return (list(tree), list(tree.values())) if type(tree) is dict else ([], list(tree))
