"""Conversion of a state to and from the neutral form of `setadam_core.interchange`."""

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
    """The moments and step count of SET-Adam, from which an optimizer of any framework can continue.

    Parameters
    ----------
    state :
        The state of `set_adam`, or any optimizer state that holds one `ScaleBySetAdamState`.

    Returns
    -------
    dict of NumPy arrays : see `setadam_core.interchange`. A name is the path in the tree of parameters, joined
        by dots, without the ``value`` of a flax Variable. The first moment is in the compute dtype, also if the state
        has another ``mu_dtype``.

    Raises
    ------
    ValueError : no state of SET-Adam, or several, in ``state``; two leaves with the same name, as in
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
    """``state`` with the moments and step count of a neutral form.

    Parameters
    ----------
    state :
        A state from ``optimizer.init(params)``, which gives the expected shapes and dtypes, or
        ``optimizer.opt_state`` of flax.nnx.Optimizer. Schedules and other states that are chained with it are kept.
        The state itself is not changed.
    form :
        From `to_neutral`, or from ``state_dict`` of NumPy's or CuPy's SETAdam.

    Raises
    ------
    KeyError : a leaf without a state, or a state without a leaf.
    TypeError, ValueError : a moment with a wrong shape or dtype; step counts that differ between the parameters,
        since this optimizer has one count; no state of SET-Adam, or several, in ``state``; two leaves with the same
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

    # tree.map, since the count of nnx.Optimizer is also in a Variable.
    count = jax.tree.map(lambda old: put(old, np.int32(t)), adam.count)
    new = ScaleBySetAdamState(count, refilled(adam.mu, 0), refilled(adam.nu, 1))
    return jax.tree.map(lambda x: new if x is adam else x, state, is_leaf=lambda x: isinstance(x, ScaleBySetAdamState))
