"""SET-Adam for JAX: an optax gradient transformation over `setadam_core`, which has the formulas.

This package adds what tracing needs: pytrees, a traced step count that saturates, and hyperparameters that survive
`optax.inject_hyperparams`. In this folder: `alias` (`set_adam`) over `transform` (the step of a tree) over `passes`
(the step of a leaf), with `trees`, `spread` and `injectable` for what these need. Not in it: a second statement of γ.
"""

try:
    import jax as _jax  # noqa: F401
    import optax as _optax  # noqa: F401
except ImportError as error:
    from setadam_core.extras import pip_install

    raise ImportError(f"setadam_jax needs JAX and optax: {pip_install('jax')} ({error.name} is missing)") from error

from setadam_jax.alias import set_adam
from setadam_jax.state.interchange import load_neutral, to_neutral
from setadam_jax.state.statistics import LayerStatistics, layer_statistics
from setadam_jax.transform import ScaleBySetAdamState, scale_by_set_adam

__all__ = [
    "LayerStatistics",
    "ScaleBySetAdamState",
    "layer_statistics",
    "load_neutral",
    "scale_by_set_adam",
    "set_adam",
    "to_neutral",
]
