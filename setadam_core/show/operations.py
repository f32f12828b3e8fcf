"""The stepsizes of one step after each of the three operations, for who wants to see them side by side."""

from collections.abc import Sequence
from dataclasses import replace

from setadam_core.hyperparameters import Hyperparameters
from setadam_core.layers import Array
from setadam_core.spec import State, trace


def stepsizes_by_operation(
    param: Array,
    grad: Array,
    state: State,
    hp: Hyperparameters,
    *,
    layer_axes: Sequence[int] | None = None,
) -> dict[str, Array]:
    """The adaptive stepsizes of one step of Adam, and with S, E and T switched on one after the other.

    The arguments are those of `trace`, and the errors too. All four have the same v and the same ε; the
    last is the step with ``hp`` as it is.

    Returns
    -------
    dict : one stepsize a coordinate, in the compute dtype, for ``"Adam"``, 1/(√v̂ + ε); ``"S"``,
        1/(√(γv̂) + ε); ``"S, E"``, 1/w; and ``"S, E, T"``, 1/w̃. η/(1-β1ᵗ) is in none of them.
    """
    last = trace(param, grad, state, hp, layer_axes=layer_axes).stepsize
    settings = {
        "Adam": replace(hp, cos_power=0, eps_inside_sqrt=False, tau=0),
        "S": replace(hp, eps_inside_sqrt=False, tau=0),
        "S, E": replace(hp, tau=0),
    }
    found = {name: trace(param, grad, state, s, layer_axes=layer_axes).stepsize for name, s in settings.items()}
    return found | {"S, E, T": last}
