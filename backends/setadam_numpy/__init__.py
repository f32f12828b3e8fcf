"""SET-Adam (arXiv 2302.01029) in place on NumPy arrays, for gradients that you compute yourself.

The algorithm is in `setadam_core`; containers, groups, checks and state are in `setadam_core.inplace`, which CuPy's
class shares. In this folder: the step in plain NumPy (`blocks`), the compiled CPU kernel that PyTorch also uses
(`kernel`), the choice between the two (`optimizer`, `fused`), what a step takes over from the one before it (`plan`,
`headers`), and NumPy's view of memory. Not in it: the checks themselves.
"""

from setadam_numpy.optimizer import SETAdam

__all__ = ["SETAdam"]
