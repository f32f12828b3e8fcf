"""One step of `set_adam` from given moments, with hyperparameters under the kit's names."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from setadam_jax import ScaleBySetAdamState, set_adam

_RENAMED = {"lr": "learning_rate", "beta1": "b1", "beta2": "b2", "decoupled_weight_decay": "decoupled"}


def optimizer_of(hp: Mapping[str, Any], layer_axes: Sequence[tuple[int, ...] | None], **options: Any) -> Any:
    """`set_adam` from hyperparameters under the kit's names, for a list of parameters."""
    if hp.get("maximize", False):
        raise ValueError("set_adam has no maximize: flip the gradients with optax.scale(-1)")
    named = {_RENAMED.get(name, name): x for name, x in hp.items() if name != "maximize"}
    given = {"learning_rate": 1e-3} | named
    return set_adam(**given, layer_axes=lambda path, leaf: layer_axes[path[0].idx], **options)


def one_step(optimizer: Any, params: Any, grads: Any, adam: ScaleBySetAdamState) -> tuple[Any, Any]:
    """One step from the given moments. The other states in the chain are empty."""
    state = with_moments(optimizer.init(params), adam)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), moments_of(state)


def _is_adam(x: Any) -> bool:
    return isinstance(x, ScaleBySetAdamState)


def with_moments(state: Any, adam: ScaleBySetAdamState) -> Any:
    return jax.tree.map(lambda x: adam if _is_adam(x) else x, state, is_leaf=_is_adam)


def moments_of(state: Any) -> Any:
    return next(filter(_is_adam, jax.tree.leaves(state, is_leaf=_is_adam)))
