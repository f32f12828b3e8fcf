"""Makes a factory safe under `optax.inject_hyperparams`, without any help from its user.

`inject_hyperparams` converts each number to an array of the parameters' dtype: with bfloat16 parameters, b2 = 0.999
becomes 1 (google-deepmind/optax#1414). It also treats each callable as a schedule, even a function for ``layer_axes``
and ``jnp.bfloat16`` for ``mu_dtype``. But it leaves strong arrays as they are, and it reads the arguments from the
factory's signature. So the signature here converts numbers to strong arrays, and wraps the other arguments to protect
them. It omits a weight decay that was not passed, since an array cannot be checked for 0 while it is traced.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

_Factory = TypeVar("_Factory", bound=Callable[..., Any])
_NUMBERS = ("learning_rate", "b1", "b2", "eps", "tau", "weight_decay")
_STATIC = ("mu_dtype", "layer_axes", "axis_name", "cos_power", "mask", "stochastic_rounding")
_MAY_BE_ABSENT = {"weight_decay"}


class _Shielded(NamedTuple):
    """A wrapper that `inject_hyperparams` treats neither as a number nor as a callable, and passes on."""

    value: Any


class _InjectableSignature(inspect.Signature):
    """A signature whose bound arguments survive `inject_hyperparams`."""

    def bind(self, /, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        bound = super().bind(*args, **kwargs)
        given = set(bound.arguments)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if name in _NUMBERS:
                bound.arguments[name] = _strong(value)
            elif name in _STATIC and value is not None:
                bound.arguments[name] = _Shielded(value)
        defaults = {
            name: p.default for name, p in self.parameters.items() if name not in given
        }  # or the default of a partial
        absent = {k for k in _MAY_BE_ABSENT if isinstance(defaults.get(k), int | float) and defaults[k] == 0}
        # `inject_hyperparams` applies defaults again, from the signature of the bound arguments.
        rest = self.replace(parameters=[p for name, p in self.parameters.items() if name not in absent])
        return inspect.BoundArguments(rest, {k: x for k, x in bound.arguments.items() if k not in absent})


def _strong(value: Any) -> Any:
    """A number as a strong array, a schedule as one of strong arrays, anything else unchanged.

    The array has the widest float dtype that JAX has now; the step rounds it to its compute dtype.
    """
    if callable(value) and not isinstance(value, optax.schedules.StatefulSchedule):

        @functools.wraps(value)
        def schedule(*args: Any, **kwargs: Any) -> Any:
            return _strong(value(*args, **kwargs))

        return schedule
    if isinstance(value, int | float) or getattr(value, "weak_type", False):
        return jnp.asarray(value, dtype=jax.dtypes.canonicalize_dtype(float))
    return value


def injectable(factory: _Factory) -> _Factory:
    """Give the factory a signature that works with `optax.inject_hyperparams`."""
    factory.__signature__ = _InjectableSignature.from_callable(factory)  # type: ignore[attr-defined]
    return factory


def unshielded(value: Any) -> Any:
    """The argument without its wrapper."""
    return value.value if isinstance(value, _Shielded) else value


def not_rounded(name: str, value: Any) -> None:
    """Raise TypeError for a 16-bit array, which cannot hold a hyperparameter: bfloat16(0.999) is 1."""
    if getattr(value, "dtype", None) in (jnp.bfloat16, jnp.float16):
        raise TypeError(
            f"{name} must be a number or a float32 or float64 array, got {value.dtype}; optax.inject_hyperparams "
            f"rounds numbers that are set in state.hyperparams: set jnp.float32(…), or create the optimizer by "
            f"inject_hyperparams(…, hyperparam_dtype=jnp.float32)"
        )
