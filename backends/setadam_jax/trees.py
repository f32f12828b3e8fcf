"""The leaves of a tree and their paths, and the checks that two trees are alike. A leaf may be in a box.

flax keeps an array in a box: a Variable of flax.nnx, or a Partitioned of flax.linen. A box is a node of the tree, but
the array's name is the path to the box, since nnx.Optimizer opens the boxes before an update but not before `init`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any  # a pytree of arrays
_BOXES = (("flax.nnx", "Variable"), ("flax.core.meta", "AxisMetadata"))


def is_box(x: Any) -> bool:
    """True if x is one of flax's boxes with one leaf. flax is not imported for this: if it is not, there are none."""
    modules = ((sys.modules.get(module), name) for module, name in _BOXES)
    boxed = any(module is not None and isinstance(x, getattr(module, name)) for module, name in modules)
    return boxed and len(jax.tree.leaves(x)) == 1


def leaves_with_path(tree: Tree) -> list[tuple[Any, Any]]:
    """(path, leaf) in the order of `jax.tree.leaves`. The path of a leaf in a box is the path of the box."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_box)
    return [(path, jax.tree.leaves(x)[0] if is_box(x) else x) for path, x in found]


def leaves_by_name(tree: Tree) -> dict[str, Any]:
    """The leaves by the names of the neutral form, which are paths joined by dots.

    Raises ValueError if two leaves have the same name.
    """
    names: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for path, leaf in leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name in names:
            raise ValueError(
                f"the leaves at {jax.tree_util.keystr(paths[name])} and {jax.tree_util.keystr(path)} must have "
                f"different names, got {name!r} for both: rename a key"
            )
        names[name], paths[name] = leaf, path
    return names


def as_leaf(x: Any) -> Any:
    """The leaf as an array. A `jax.ShapeDtypeStruct`, which only describes one, gets the dtype that JAX would use."""
    if isinstance(x, jax.ShapeDtypeStruct | jax.core.ShapedArray):
        return x.update(dtype=jax.dtypes.canonicalize_dtype(x.dtype))
    return jnp.asarray(x)


def check_trees(updates: Tree, moments: Tree, params: Tree | None) -> None:
    """Raise ValueError, naming a path, if updates, moments and parameters differ in structure or shape."""
    for name, other in ({"the state": moments} | ({} if params is None else {"params": params})).items():
        check_paths({"updates": updates, name: other})
        if jax.tree.structure(updates) != jax.tree.structure(other):
            raise ValueError(
                f"updates must have the tree of {name}, {jax.tree.structure(other)}, got {jax.tree.structure(updates)}"
            )
    for (path, param), grad in zip(leaves_with_path(params), jax.tree.leaves(updates), strict=params is not None):
        if jnp.shape(param) != jnp.shape(grad):
            raise ValueError(
                f"updates{jax.tree_util.keystr(path)} must have the shape of its parameter, "
                f"{jnp.shape(param)}, got {jnp.shape(grad)}"
            )


def check_paths(trees: dict[str, Tree]) -> None:
    """Raise ValueError, naming a path, if one of two named trees has a leaf that the other does not have."""
    (first, second), paths = trees, [dict(leaves_with_path(tree)) for tree in trees.values()]
    alone = [path for path in (*paths[0], *paths[1]) if (path in paths[0]) != (path in paths[1])]
    if alone:
        there, absent = (first, second) if alone[0] in paths[0] else (second, first)
        raise ValueError(
            f"{first} must have the tree of {second}: {there} has a leaf at "
            f"{jax.tree_util.keystr(alone[0]) or 'its root'}, {absent} has none"
        )


@contextmanager
def naming(tree: str, path: Any) -> Iterator[None]:
    """Prefix the specification's errors with the path of the leaf."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):  # JAX's own errors, whose constructors take other arguments
            raise
        raise type(error)(f"{tree}{jax.tree_util.keystr(path)}: {error}") from error
