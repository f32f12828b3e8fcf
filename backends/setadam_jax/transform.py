"""`scale_by_set_adam`: the specification of one step, mapped over the leaves of a pytree."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from setadam_core import Hyperparameters
from setadam_core.layers import check_layer, check_layer_axes, compute_dtype_name
from setadam_jax.injectable import injectable, not_rounded, unshielded
from setadam_jax.passes import Leaf, steps
from setadam_jax.spread import AxisName, across_of
from setadam_jax.trees import Tree, as_leaf, check_trees, leaves_with_path, naming

LayerAxes = Sequence[int] | None | Callable[[Any, Any], Sequence[int] | None]
UpdateDtype = Literal["compute"] | None
# Hyperparameters that are float64 arrays are combined with float32 leaves, and rounded to float32 only then.
STANDARD_PROMOTION = functools.partial(jax.numpy_dtype_promotion, "standard")


class ScaleBySetAdamState(NamedTuple):
    """The state of SET-Adam: optax's ``ScaleByAdamState``, in SET-Adam's dtypes.

    Attributes
    ----------
    count : int32 scalar, the number of steps; it stays at its largest value instead of overflowing.
    mu, nu : first and second moment, trees like the parameters. They are real, float32 (float64 for float64 and
        complex128 parameters), and have each parameter's shape s, or s + (2,) if it is complex. If ``mu_dtype`` is
        given, it is the dtype of ``mu``.
    """

    count: Any
    mu: Tree
    nu: Tree


@injectable
def scale_by_set_adam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    tau: Any = 0.5,
    *,
    mu_dtype: Any = None,
    layer_axes: LayerAxes = None,
    axis_name: AxisName = None,
    cos_power: float = 2,
    eps_inside_sqrt: bool = True,
    update_dtype: UpdateDtype = "compute",
) -> optax.GradientTransformation:
    """Scale gradients to m / ((1-β₁ᵗ) w̃), the step of SET-Adam (arXiv 2302.01029) without the learning rate.

    Parameters
    ----------
    b1, b2, eps, tau, cos_power, eps_inside_sqrt :
        The hyperparameters of `setadam_core.Hyperparameters`, where b1 and b2 are beta1 and beta2. b1, b2, eps and
        tau may be 0-d arrays, also traced ones; their values are not read, and so not checked.
    mu_dtype : dtype in which the first moment is stored between steps; the step itself is computed
        in the compute dtype. Default: the compute dtype.
    layer_axes : the axes of a leaf that make one layer, over which γ and the minimum are taken.
        None means all of them: a leaf is a layer. A tuple applies to every leaf. A function of (path, leaf) returns a
        tuple or None; path is as in `jax.tree_util.tree_map_with_path`, without the key of a flax Variable, and leaf
        has the parameter's shape and dtype (it is a `jax.ShapeDtypeStruct` if `init` got one). Pass (1, 2) for
        matrices stacked along axis 0.
    axis_name : inside `jax.shard_map`, the names of the mesh axes over which the layers of a leaf are
        spread: a name, a tuple of names, None if each layer is whole (replicated, or a stack that is divided between
        its layers), or a function of (path, leaf) that returns one of these. γ and the minimum are then computed with
        `jax.lax.psum`, `pmax` and `pmin` over these axes. Under `jax.jit` alone, arrays are whole, whatever their
        sharding, and this must be None.
    update_dtype : "compute" or None. "compute" leaves updates in the compute dtype, float32 for 16-bit
        leaves, so that `optax.apply_updates` rounds a parameter once. None rounds each update to the dtype of its
        parameter, or of its gradient if `update` gets no ``params``.

    Returns
    -------
    optax.GradientTransformation
        `init` takes arrays, or `jax.ShapeDtypeStruct`s that describe them. Moments get the sharding of their
        parameters. `update` does not need ``params``; if they are given, their tree and shapes are checked. Gradients
        may have the parameters' dtype or the compute dtype.

    Raises
    ------
    TypeError, ValueError
        For a wrong hyperparameter. `init` and `update` raise them for a wrong leaf, with its path.
    """
    mu_dtype = None if mu_dtype is None else jnp.dtype(unshielded(mu_dtype))
    layer_axes, axis_name = unshielded(layer_axes), unshielded(axis_name)
    check_update_dtype(update_dtype)
    hp = hyperparameters(
        b1=b1, b2=b2, eps=eps, tau=tau, cos_power=unshielded(cos_power), eps_inside_sqrt=eps_inside_sqrt
    )

    def init(params: Tree) -> ScaleBySetAdamState:
        def zeros(path: Any, param: Any) -> tuple[Any, Any]:
            with naming("params", path):
                param = as_leaf(param)
                dtype = compute_dtype_name(param)
                check_layer_axes(axes_of(layer_axes, path, param), param.ndim)
            return zeros_of_view(param, mu_dtype or dtype), zeros_of_view(param, dtype)

        tree, leaves = jax.tree.structure(params), leaves_with_path(params)
        states = [zeros(path, param) for path, param in leaves]
        mu, nu = (tree.unflatten([state[i] for state in states]) for i in range(2))
        return ScaleBySetAdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update(
        updates: Tree, state: ScaleBySetAdamState, params: Tree | None = None
    ) -> tuple[Tree, ScaleBySetAdamState]:
        check_trees(updates, state.nu, params)
        count = optax.safe_increment(state.count)

        def leaf_of(path: Any, grad: Any, mu: Any, nu: Any) -> Leaf:
            with naming("updates", path):
                grad, m = jnp.asarray(grad), mu.astype(nu.dtype)
                axes, across = axes_of(layer_axes, path, grad), across_of(axis_name, path, grad)
                # The update does not need the parameter; the gradient has its shape and dtype.
                return Leaf(grad, m, nu, check_layer(grad, grad, m, nu, count, hp, axes, across))

        grads, tree = leaves_with_path(updates), jax.tree.structure(updates)
        mus, nus = jax.tree.leaves(state.mu), jax.tree.leaves(state.nu)
        leaves = [leaf_of(path, g, mu, nu) for (path, g), mu, nu in zip(grads, mus, nus, strict=True)]
        with STANDARD_PROMOTION():
            stepped = steps(leaves, count, hp)
        new = [
            as_complex(x.update) if leaf.layer.is_complex else x.update for leaf, x in zip(leaves, stepped, strict=True)
        ]
        mu = [x.m.astype(old.dtype) for x, old in zip(stepped, mus, strict=True)]
        new, mu, nu = (tree.unflatten(x) for x in (new, mu, [x.v for x in stepped]))
        if update_dtype is None:
            new = in_own_dtype(new, updates, params)
        return new, ScaleBySetAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


_SPEC_NAMES = {
    "learning_rate": "lr",
    "b1": "beta1",
    "b2": "beta2",
    "decoupled": "decoupled_weight_decay",
}


def hyperparameters(**arguments: Any) -> Hyperparameters:
    """The specification's hyperparameters, from arguments with optax's names. Errors use these names."""
    for name, value in arguments.items():
        not_rounded(name, value)
    try:
        # optax scales the update by the learning rate later; 1.0 leaves it unchanged.
        return Hyperparameters(**({"lr": 1.0} | {_SPEC_NAMES.get(k, k): x for k, x in arguments.items()}))
    except (TypeError, ValueError) as error:
        message = str(error)
        for ours, theirs in _SPEC_NAMES.items():
            message = message.replace(f"{theirs} must", f"{ours} must")
        raise type(error)(message) from None


def axes_of(layer_axes: LayerAxes, path: Any, leaf: Any) -> Sequence[int] | None:
    """The layer axes of one leaf."""
    return layer_axes(path, leaf) if callable(layer_axes) else layer_axes


def check_update_dtype(update_dtype: Any) -> None:
    """Raise ValueError if update_dtype is not an `UpdateDtype`."""
    if not (update_dtype is None or (isinstance(update_dtype, str) and update_dtype == "compute")):
        raise ValueError(f'update_dtype must be "compute" or None (the dtype of the parameter), got {update_dtype!r}')


def in_own_dtype(new: Tree, updates: Tree, params: Tree | None) -> Tree:
    """The updates `new` in the dtypes of the parameters, or of the gradients if there are no parameters."""
    like = updates if params is None else params
    return jax.tree.map(lambda u, x: u.astype(jnp.result_type(x)), new, like)


def as_complex(x: Any) -> Any:
    """The inverse of a complex array's real view."""
    return jax.lax.complex(x[..., 0], x[..., 1])


def zeros_of_view(param: Any, dtype: Any) -> Any:
    """Zeros with the shape of the parameter's real view, in dtype, with its sharding, uncommitted if it is."""
    zeros = jnp.zeros_like(param, dtype=dtype)  # a shape is not passed, since that would drop the sharding
    return jnp.stack([zeros, zeros], axis=-1) if jnp.issubdtype(param.dtype, jnp.complexfloating) else zeros
