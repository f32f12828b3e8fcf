"""The leaves of a tree and their paths, where a leaf may lie in a box.

flax keeps an array in a box: a Variable of flax.nnx, a Partitioned of flax.linen. A box is a node of the tree, but the
array's name is the path to the box: nnx.Optimizer opens the boxes before an update and not before `init`.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any  # a pytree of arrays
_BOXES = (("flax.nnx", "Variable"), ("flax.core.meta", "AxisMetadata"))


def is_box(x: Any) -> bool:
    """Whether x is a box of flax's with one leaf in it. flax is not imported for that: unless it is, there are none."""
    modules = ((sys.modules.get(module), name) for module, name in _BOXES)
    boxed = any(module is not None and isinstance(x, getattr(module, name)) for module, name in modules)
    return boxed and len(jax.tree.leaves(x)) == 1


def leaves_with_path(tree: Tree) -> list[tuple[Any, Any]]:
    """(path, leaf) in the order of `jax.tree.leaves`; the path of a leaf in a box is the box's."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_box)
    return [(path, jax.tree.leaves(x)[0] if is_box(x) else x) for path, x in found]


def leaves_by_name(tree: Tree) -> dict[str, Any]:
    """The leaves by the names of the neutral form: paths joined by dots.

    Raises ValueError where two leaves have one name.
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
    """The leaf as an array; a `jax.ShapeDtypeStruct`, which only describes one, with the dtype JAX would give it."""
    if isinstance(x, jax.ShapeDtypeStruct | jax.core.ShapedArray):
        return x.update(dtype=jax.dtypes.canonicalize_dtype(x.dtype))
    return jnp.asarray(x)
