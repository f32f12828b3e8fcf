"""SET-Adam (arXiv 2302.01029) for those who write their own gradients: in place, on NumPy arrays.

The algorithm is `setadam_core`'s; containers, groups, checks and state are `setadam_core.inplace`'s, which
CuPy's class shares. Here are the step in blocks that fit the cache, and NumPy's view of memory.
"""

from setadam_numpy.optimizer import SETAdam

__all__ = ["SETAdam"]
