"""Groups of parameters with their own options. Errors name the option or the parameter."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

from array_api_compat import array_namespace

from setadam_core.hyperparameters import Hyperparameters, from_options
from setadam_core.inplace.containers import Leaf, flatten
from setadam_core.layers import COMPUTE_DTYPE, Array, Layer, check_layer_axes, compute_dtype_name, dtype_name

Group = dict[str, Any]  # "params" (arrays by name), and the options by name


def are_groups(params: Any) -> bool:
    """True if params is a list of groups, False if it is a container of arrays."""
    return isinstance(params, list | tuple) and any(isinstance(x, Mapping) and "params" in x for x in params)


def arrays_of(groups: Sequence[Group]) -> dict[str, Array]:
    """The parameters of all groups by name."""
    return {name: param for group in groups for name, param in group["params"].items()}


def named(group: Any, index: int | None, leaf: Leaf) -> dict[str, Array]:
    """A group's arrays by name. If they are a list, names begin with the group's index, unless it is None."""
    if not isinstance(group, Mapping) or "params" not in group:
        raise TypeError(f"a group must be a dict with 'params', got {type(group).__name__}")
    params = group["params"]
    if index is None or isinstance(params, Mapping):
        return flatten(params, "param", leaf)
    return flatten({index: params}, "param", leaf)


def check_params(group: Group, dtypes: Collection[str]) -> None:
    """Raise TypeError or ValueError, naming the parameter, for a dtype or an option that is wrong for it.

    dtypes: the names in COMPUTE_DTYPE of the dtypes that the backend supports.
    """
    hp = from_options(group)
    for name, param in group["params"].items():
        check_writeable("param", name, param)
        if (dtype := dtype_name(param)) in COMPUTE_DTYPE and dtype not in dtypes:
            raise TypeError(
                f"param {name!r} must have one of the dtypes {', '.join(dtypes)} in this backend, got {dtype}"
            )
        checked_layer(name, param, group["layer_axes"], hp)


def checked_layer(name: str, param: Array, layer_axes: Any, hp: Hyperparameters) -> Layer:
    """The layer of a parameter. TypeError or ValueError, naming it, if there is none, or an option is wrong for it."""
    try:
        layer = layer_of(param, layer_axes)
        check_representable(hp, layer)
    except (TypeError, ValueError) as error:
        raise type(error)(f"param {name!r}: {error}") from None
    return layer


def check_writeable(what: str, name: str, x: Array) -> None:
    """Raise ValueError for an array that cannot be updated."""
    if not getattr(x.flags, "writeable", True):  # CuPy's arrays always are
        raise ValueError(f"{what} {name!r} is read-only: it must be writeable")


@lru_cache(maxsize=1024)
def check_representable(hp: Hyperparameters, layer: Layer) -> None:
    """`Hyperparameters.check_representable` for the layer's compute dtype."""
    info = layer.xp.finfo(layer.dtype)
    hp.check_representable(layer.dtype.__name__, float(info.smallest_normal), float(info.max))


def layer_of(param: Array, layer_axes: Any) -> Layer:
    """The layer of a parameter, for its real view in the compute dtype."""
    axes = None if layer_axes is None else check_layer_axes(layer_axes, param.ndim)
    if param.dtype not in _COMPUTE:  # reading a dtype's name takes as long as the arithmetic of a small layer
        _COMPUTE[param.dtype] = compute_dtype_name(param)
    return _layer(array_namespace(param), _COMPUTE[param.dtype], param.dtype, param.shape, axes)


_COMPUTE: dict[Any, str] = {}


@lru_cache(maxsize=4096)
def _layer(xp: Any, compute: str, dtype: Any, shape: tuple[int, ...], layer_axes: Any) -> Layer:
    axes = check_layer_axes(layer_axes, len(shape))
    if dtype.kind == "c":
        shape, axes = (*shape, 2), (*axes, len(shape))
    return Layer(xp, getattr(xp, compute), dtype, False, axes, prod(shape[axis] for axis in axes))
