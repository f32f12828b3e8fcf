"""The state in the neutral form of `setadam_core.interchange`: to other frameworks, and from them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from setadam_core.interchange import Form, check_names, check_state, pack, unpack
from setadam_core.spec import State
from setadam_jax.state.finding import count_of, find
from setadam_jax.transform import ScaleBySetAdamState
from setadam_jax.trees import Tree, leaves_by_name


def to_neutral(state: Any) -> Form:
    """The moments and step count of SET-Adam, for an optimizer of any framework to go on from.

    Parameters
    ----------
    state :
        Of `set_adam`, or any optimizer's that holds one `ScaleBySetAdamState`.

    Returns
    -------
    dict of NumPy arrays : see `setadam_core.interchange`. A name is the path in the tree of parameters, joined
        by dots; the ``value`` of a flax Variable is no part of it. A first moment that is kept in another
        ``mu_dtype`` is in the compute dtype here.

    Raises
    ------
    ValueError : no state of SET-Adam, or several, in ``state``; two leaves of one name, as in
        ``{"a": {"b": x}, "a.b": y}``.
    """
    adam = find(state)
    mus, t = leaves_by_name(adam.mu), int(count_of(adam))
    return pack(
        {
            name: State(np.asarray(mus[name], nu.dtype), np.asarray(nu), t)
            for name, nu in leaves_by_name(adam.nu).items()
        }
    )


def load_neutral(state: Any, form: Mapping[str, Any]) -> Any:
    """``state`` with the moments and step count of a neutral form in the place of its own.

    Parameters
    ----------
    state :
        As ``optimizer.init(params)`` returns it, which says what shapes and dtypes are due; schedules and
        other states that are chained with it are kept. It is not changed. Or
        ``optimizer.opt_state`` of flax.nnx.Optimizer.
    form :
        As `to_neutral` makes it, or ``state_dict`` of NumPy's or CuPy's SETAdam.

    Raises
    ------
    KeyError : a leaf without a state, or a state without a leaf.
    TypeError, ValueError : a moment of another shape or dtype; steps that differ between the parameters,
        as this optimizer counts them once; no state of SET-Adam, or several, in ``state``; two leaves of one
        name.
    """
    adam, (states, _) = find(state), unpack(form)
    like = leaves_by_name(adam.nu)
    check_names(states, like)
    for name, nu in like.items():
        check_state(name, states[name], nu.shape, str(nu.dtype))
    counts = {name: s.t for name, s in states.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"all parameters must have taken the same number of steps, got {counts}")
    t = min(next(iter(counts.values()), 0), jnp.iinfo(jnp.int32).max)

    def put(old: Any, new: Any) -> Any:
        new = jnp.asarray(new).astype(old.dtype)
        sharding = getattr(old, "sharding", None)
        return new if sharding is None else jax.device_put(new, sharding)

    def refilled(old: Tree, field: int) -> Tree:
        leaves = [put(x, states[name][field]) for name, x in leaves_by_name(old).items()]
        return jax.tree.structure(old).unflatten(leaves)

    # By tree.map, since the count of nnx.Optimizer is in a Variable too.
    count = jax.tree.map(lambda old: put(old, np.int32(t)), adam.count)
    new = ScaleBySetAdamState(count, refilled(adam.mu, 0), refilled(adam.nu, 1))
    return jax.tree.map(lambda x: new if x is adam else x, state, is_leaf=lambda x: isinstance(x, ScaleBySetAdamState))
