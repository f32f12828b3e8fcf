"""SET-Adam (arXiv 2302.01029) as a pure Array-API specification: the truth that all backends follow."""

from setadam_core.hyperparameters import Hyperparameters
from setadam_core.rounding import Rounding
from setadam_core.spec import State, Trace, init, step, trace

__all__ = ["Hyperparameters", "Rounding", "State", "Trace", "init", "step", "trace"]
