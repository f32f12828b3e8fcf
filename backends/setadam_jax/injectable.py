"""What makes a factory safe under `optax.inject_hyperparams`, with nothing for its user to do.

`inject_hyperparams` turns each number that it finds into an array of the parameters' dtype: with
bfloat16 parameters b2 = 0.999 becomes 1 (google-deepmind/optax#1414). It takes each callable for
a schedule, a function for ``layer_axes`` and ``jnp.bfloat16`` for ``mu_dtype`` too. But strong arrays it
leaves as they are, and it learns the arguments from the factory's signature: so that is where
numbers become strong arrays, and what is not a number is shielded from it. A weight decay left at its
default is not among the arguments at all: as an array it could not be seen to be 0.
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
_STATIC = ("mu_dtype", "layer_axes", "axis_name", "cos_power", "mask")
_MAY_BE_ABSENT = {"weight_decay"}


class _Shielded(NamedTuple):
    """Neither number nor callable to `inject_hyperparams`: it is handed on as it is."""

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
        defaults = {name: p.default for name, p in self.parameters.items() if name not in given}  # or a partial's
        absent = {k for k in _MAY_BE_ABSENT if isinstance(defaults.get(k), int | float) and defaults[k] == 0}
        # `inject_hyperparams` applies defaults again, by the signature that the bound arguments are of.
        rest = self.replace(parameters=[p for name, p in self.parameters.items() if name not in absent])
        return inspect.BoundArguments(rest, {k: x for k, x in bound.arguments.items() if k not in absent})


def _strong(value: Any) -> Any:
    """A number, or what a schedule gives, as a strong array; anything else as it is.

    In the widest float that JAX has now, since the step rounds it to its compute dtype.
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
    """Give the factory a signature that `optax.inject_hyperparams` reads well."""
    factory.__signature__ = _InjectableSignature.from_callable(factory)  # type: ignore[attr-defined]
    return factory


def unshielded(value: Any) -> Any:
    """The argument as it was given."""
    return value.value if isinstance(value, _Shielded) else value


def not_rounded(name: str, value: Any) -> None:
    """Raise TypeError for a 16-bit array, which cannot hold a hyperparameter: bfloat16(0.999) is 1."""
    if getattr(value, "dtype", None) in (jnp.bfloat16, jnp.float16):
        raise TypeError(
            f"{name} must be a number or a float32 or float64 array, got {value.dtype}; optax.inject_hyperparams makes "
            f"that of a number which is set in state.hyperparams: set jnp.float32(…), or make the optimizer by "
            f"inject_hyperparams(…, hyperparam_dtype=jnp.float32)"
        )
