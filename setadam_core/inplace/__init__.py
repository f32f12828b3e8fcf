"""SET-Adam in place on plain arrays: what `setadam_numpy.SETAdam` and `setadam_cupy.SETAdam` share.

In this folder: groups of parameters, their state, and the checks before a step. Not in it: the arithmetic of a step,
which is the backend's, and anything that holds for one kind of array alone.
"""

from setadam_core.inplace.layout import Task
from setadam_core.inplace.memory import Memory
from setadam_core.inplace.optimizer import InPlaceOptimizer

__all__ = ["InPlaceOptimizer", "Memory", "Task"]
