"""The stepsizes of one step after each of the three operations, for a side-by-side comparison."""

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
    """The adaptive stepsizes of one step of Adam, and then with S, E and T switched on one after the other.

    The arguments and the errors are those of `trace`. All four use the same v and the same ε; the last one is the step
    with ``hp`` unchanged.

    Returns
    -------
    dict : one stepsize for each coordinate, in the compute dtype, for ``"Adam"``, 1/(√v̂ + ε); ``"S"``,
        1/(√(γv̂) + ε); ``"S, E"``, 1/w; and ``"S, E, T"``, 1/w̃. They do not include η/(1-β₁ᵗ).
    """
    last = trace(param, grad, state, hp, layer_axes=layer_axes).stepsize
    settings = {
        "Adam": replace(hp, cos_power=0, eps_inside_sqrt=False, tau=0),
        "S": replace(hp, eps_inside_sqrt=False, tau=0),
        "S, E": replace(hp, tau=0),
    }
    found = {name: trace(param, grad, state, s, layer_axes=layer_axes).stepsize for name, s in settings.items()}
    return found | {"S, E, T": last}
