"""Finds the state of SET-Adam inside the state of a whole chain of transformations."""

from typing import Any

import jax

from setadam_jax.transform import ScaleBySetAdamState


def find(state: Any) -> ScaleBySetAdamState:
    """The one state of SET-Adam inside an optimizer's state."""

    def is_ours(x: Any) -> bool:
        return isinstance(x, ScaleBySetAdamState)

    found: list[ScaleBySetAdamState] = [x for x in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(x)]
    if len(found) != 1:
        raise ValueError(f"state must hold one ScaleBySetAdamState, got {len(found)} in {type(state).__name__}")
    return found[0]


def count_of(adam: ScaleBySetAdamState) -> Any:
    """The step count as an array, taken out of flax's box."""
    (count,) = jax.tree.leaves(adam.count)
    return count
