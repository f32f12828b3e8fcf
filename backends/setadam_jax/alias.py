"""`set_adam`: the optimizer, a chain of `scale_by_set_adam` and optax's own transformations."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from setadam_core.layers import COMPUTE_DTYPE
from setadam_core.rounding import check_seed
from setadam_jax.injectable import injectable, unshielded
from setadam_jax.rounding import rounded_stochastically
from setadam_jax.spread import AxisName
from setadam_jax.transform import (
    STANDARD_PROMOTION,
    LayerAxes,
    UpdateDtype,
    check_update_dtype,
    hyperparameters,
    in_own_dtype,
    scale_by_set_adam,
)
from setadam_jax.trees import Tree


@injectable
def set_adam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    tau: Any = 0.5,
    *,
    weight_decay: Any = 0.0,
    decoupled: bool = True,
    mask: Any = None,
    mu_dtype: Any = None,
    layer_axes: LayerAxes = None,
    axis_name: AxisName = None,
    cos_power: float = 2,
    eps_inside_sqrt: bool = True,
    update_dtype: UpdateDtype = "compute",
    stochastic_rounding: bool | int = False,
) -> optax.GradientTransformationExtraArgs:
    """SET-Adam: Adam with a smaller range of adaptive stepsizes (arXiv 2302.01029, algorithm 1).

    ``eps`` is added *under* the square root, so the default 1e-8 is about 1e-4 in `optax.adam`. With
    ``cos_power=0, tau=0`` this is ``optax.adam(eps=0, eps_root=eps)``.

    Coming from Adam: start with half of its learning rate and the default ε, and change ε by factors of 100 where
    ``floor_share`` of `layer_statistics` is 0 or 1. One NaN in a gradient makes its whole layer NaN: skip such a step.

    Parameters
    ----------
    learning_rate :
        η ≥ 0, or a schedule: a function of the number of updates before this one.
    b1, b2, eps, tau, mu_dtype, layer_axes, axis_name, cos_power, eps_inside_sqrt :
        As in `scale_by_set_adam`.
    weight_decay :
        λ ≥ 0, or a schedule. Unless it is the number 0, `update` needs ``params``. Under
        `optax.inject_hyperparams` it is one of ``state.hyperparams`` if it was passed, even as 0.0, and `update` then
        needs ``params`` as with `optax.adamw`. If it was not passed, there is no decay until you add one there.
    decoupled :
        True, as in `optax.adamw`: λθ is added to the scaled update, so that θ is multiplied by 1 - ηλ.
        False: λθ is added to the gradient and enters both moments (L2 regularization).
    mask :
        Which leaves decay: a tree of bools, or a function from the parameters to one.
    update_dtype :
        "compute" leaves updates in the compute dtype, float32 for 16-bit parameters: `optax.apply_updates`
        adds them in float32 and rounds the parameter once. None rounds each update, at the end, to the dtype of
        its parameter, or of its gradient if `update` gets no ``params``. Use it with code that expects the two
        dtypes to be equal: ``p + u``, `equinox.apply_updates`, and wrappers of optax that keep updates in their
        state or choose between updates and gradients. It is one more rounding.
    stochastic_rounding :
        False rounds bfloat16 and float16 parameters to nearest. A seed, an int in [0, 2³²) (True: 0), rounds them to
        one of their neighbours, at random and right on average (`setadam_core.rounding`), so that small updates are
        not lost. The bits depend on the seed, the number of the step, the leaf's index among the leaves, and the
        coordinate's place in the leaf, under `jax.jit` of sharded arrays too. `update` then needs ``params``, and the
        updates are meant for `optax.apply_updates`, with nothing changed in between. Not with ``axis_name``, inside
        `jax.shard_map` or `jax.pmap`, or with ``update_dtype=None``.

    Returns
    -------
    optax.GradientTransformationExtraArgs

    Raises
    ------
    TypeError, ValueError : as in `scale_by_set_adam`; and for ``stochastic_rounding`` that is no seed, or where it is
        refused, by `update` too if it gets no ``params``.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> params = {"w": jnp.ones(3)}
    >>> optimizer = set_adam(1e-3, weight_decay=1e-2)
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": jnp.ones(3)}, state, params)
    >>> params = optax.apply_updates(params, updates)
    """
    check_update_dtype(update_dtype)
    mask, seed = unshielded(mask), check_seed(unshielded(stochastic_rounding))
    if seed is not None and (update_dtype is None or unshielded(axis_name) is not None):
        other = "update_dtype=None" if update_dtype is None else "axis_name"
        raise ValueError(f"stochastic_rounding must be False with {other}, got {unshielded(stochastic_rounding)!r}")
    numbers = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    hp = hyperparameters(**{name: x for name, x in numbers.items() if not callable(x)}, decoupled=decoupled)
    adam = scale_by_set_adam(
        b1,
        b2,
        eps,
        tau,
        mu_dtype=mu_dtype,
        layer_axes=layer_axes,
        axis_name=axis_name,
        cos_power=cos_power,
        eps_inside_sqrt=eps_inside_sqrt,
    )
    if callable(weight_decay) or hp.decays:
        decay = _in_compute_dtype(optax.add_decayed_weights(weight_decay, mask))
    else:  # with the same state, so that a weight decay can be injected later
        decay = optax.identity() if mask is None else optax.masked(optax.identity(), mask)
    descend = _in_compute_dtype(optax.scale_by_learning_rate(learning_rate))
    chain = optax.chain(*((adam, decay) if decoupled else (decay, adam)), descend)
    if seed is not None:
        return rounded_stochastically(chain, seed)
    return chain if update_dtype == "compute" else _in_own_dtype(chain)


def _in_own_dtype(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """`inner`, with updates in the dtype of the parameters or gradients."""

    def update(updates: Tree, state: Any, params: Tree | None = None, **extra: Any) -> tuple[Tree, Any]:
        new, state = inner.update(updates, state, params, **extra)
        return in_own_dtype(new, updates, params), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _in_compute_dtype(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, with inputs and outputs in the compute dtype.

    So the result for a 16-bit gradient or parameter is not rounded in between, and a float64 hyperparameter does not
    widen float32 updates.
    """

    def widen(x: Any) -> Any:
        dtype = jnp.result_type(x)
        return x if jnp.iscomplexobj(x) else jnp.asarray(x, COMPUTE_DTYPE.get(str(dtype), dtype))

    def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, Any]:
        updates = jax.tree.map(widen, updates)
        with STANDARD_PROMOTION():
            new, state = inner.update(updates, state, jax.tree.map(widen, params))
        return jax.tree.map(lambda u, old: u.astype(old.dtype), new, updates), state

    return optax.GradientTransformation(inner.init, update)
