"""`layer_statistics`: the effect of the three operations on each layer, for logs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from setadam_core.layers import check_layer
from setadam_core.show.statistics import of_layers
from setadam_jax.spread import AxisName, across_of
from setadam_jax.state.finding import count_of, find
from setadam_jax.transform import LayerAxes, axes_of, hyperparameters
from setadam_jax.trees import Tree, check_paths, is_box, leaves_with_path, naming


class LayerStatistics(NamedTuple):
    """The statistics of each layer of one leaf: arrays of the leaf's shape without the layer's axes.

    The stepsizes are the paper's 1/w̃, without the learning rate and 1/(1-β₁ᵗ).
    """

    gamma: Any
    w_min: Any
    floor_share: Any  # of coordinates with w ≤ √2 √ε
    stepsize_min: Any
    stepsize_mean: Any
    stepsize_std: Any  # over the layer's d coordinates
    stepsize_max: Any


def layer_statistics(
    state: Any,
    params: Tree,
    *,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    tau: Any = 0.5,
    cos_power: float = 2,
    eps_inside_sqrt: bool = True,
    layer_axes: LayerAxes = None,
    axis_name: AxisName = None,
) -> Tree:
    """γ, min w, the share on the floor, and the spread of the stepsizes of each layer, after the last step of `state`.

    Parameters
    ----------
    state :
        The state of `set_adam`, or any optimizer state that holds one `ScaleBySetAdamState`.
    params :
        The parameters, for their tree and dtypes; for flax.nnx, ``nnx.state(model, nnx.Param)``.
    b2, eps, tau, cos_power, eps_inside_sqrt, layer_axes, axis_name :
        The optimizer's own. Its state does not have them (except with `optax.inject_hyperparams`, in
        ``state.hyperparams``).

    Returns
    -------
    tree of LayerStatistics
        One for each leaf of ``params``, in the compute dtype, and None for a leaf without elements. If parameters are
        Variables, each takes the place of one. Before the first step the second moment is zero: γ and
        ``floor_share`` are 1 and every stepsize is 1/((1-τ)√ε).

    Raises
    ------
    ValueError : no state of SET-Adam, or several, in ``state``; a leaf that only ``params`` or only the state
        has; a moment of the wrong shape.
    TypeError, ValueError : a wrong hyperparameter, as in `scale_by_set_adam`.
    """
    hp = hyperparameters(b2=b2, eps=eps, tau=tau, cos_power=cos_power, eps_inside_sqrt=eps_inside_sqrt)
    adam = find(state)

    count = count_of(adam)
    check_paths({"params": params, "the state": adam.nu})
    moments = dict(leaves_with_path(adam.nu))

    def statistics(path: Any, param: Any) -> LayerStatistics | None:
        param, nu, t = jnp.asarray(param), moments[path], jnp.maximum(count, 1)
        if param.size == 0:
            return None  # without coordinates there is no smallest stepsize
        with naming("params", path):
            axes = axes_of(layer_axes, path, param)
            layer = check_layer(param, param, nu, nu, t, hp, axes, across_of(axis_name, path, param))
        return LayerStatistics(*(jnp.squeeze(x, layer.axes) for x in of_layers(nu, t, layer, hp)))

    tree = jax.tree.structure(params, is_leaf=is_box)
    return tree.unflatten([statistics(path, param) for path, param in leaves_with_path(params)])
