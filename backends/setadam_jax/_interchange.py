"""The state in the neutral form of `setadam_core.interchange`: to other frameworks, and from them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from setadam_core.interchange import Form, check_names, check_state, pack, unpack
from setadam_core.spec import State
from setadam_jax._statistics import find
from setadam_jax._transform import ScaleBySetAdamState, Tree


def to_neutral(state: Any) -> Form:
    """The moments and step count of SET-Adam, for an optimizer of any framework to go on from.

    Parameters
    ----------
    state :
        Of `set_adam`, or any optimizer's that holds one `ScaleBySetAdamState`.

    Returns
    -------
    dict of NumPy arrays : see `setadam_core.interchange`. A name is the path in the tree of parameters, joined
        by dots. A first moment that is kept in another ``mu_dtype`` is in the compute dtype here.

    Raises
    ------
    ValueError : no state of SET-Adam, or several, in ``state``.
    """
    adam = find(state)
    mus = _named(adam.mu)
    t = int(adam.count)
    return pack(
        {name: State(np.asarray(mus[name], nu.dtype), np.asarray(nu), t) for name, nu in _named(adam.nu).items()}
    )


def load_neutral(state: Any, form: Mapping[str, Any]) -> Any:
    """``state`` with the moments and step count of a neutral form in the place of its own.

    Parameters
    ----------
    state :
        As ``optimizer.init(params)`` returns it, which says what shapes and dtypes are due; schedules and
        other states that are chained with it are kept. It is not changed.
    form :
        As `to_neutral` makes it, or ``state_dict`` of NumPy's or CuPy's SETAdam.

    Raises
    ------
    KeyError : a leaf without a state, or a state without a leaf.
    TypeError, ValueError : a moment of another shape or dtype; steps that differ between the parameters,
        as this optimizer counts them once; no state of SET-Adam, or several, in ``state``.
    """
    adam, (states, _) = find(state), unpack(form)
    like = _named(adam.nu)
    check_names(states, like)
    for name, nu in like.items():
        check_state(name, states[name], nu.shape, str(nu.dtype))
    counts = {name: s.t for name, s in states.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"all parameters must have taken the same number of steps, got {counts}")
    t = min(next(iter(counts.values()), 0), jnp.iinfo(jnp.int32).max)

    def put(old: Tree, field: int) -> Tree:
        def leaf(path: Any, x: Any) -> Any:
            new = jnp.asarray(states[_name(path)][field]).astype(x.dtype)
            return jax.device_put(new, x.sharding) if isinstance(x, jax.Array) else new

        return jax.tree_util.tree_map_with_path(leaf, old)

    new = ScaleBySetAdamState(jnp.asarray(t, jnp.int32), put(adam.mu, 0), put(adam.nu, 1))
    return jax.tree.map(lambda x: new if x is adam else x, state, is_leaf=lambda x: isinstance(x, ScaleBySetAdamState))


def _named(tree: Tree) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return str(jax.tree_util.keystr(path, simple=True, separator="."))
