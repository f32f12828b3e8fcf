"""SET-Adam (arXiv 2302.01029) in place on CuPy arrays: two fused kernels for up to 64 layers at a time.

The kernels keep subnormals, which CuPy's own do not. They are compiled and read, and run as C++ on a CPU, but have not
run on a GPU yet. The algorithm is `setadam_core`'s; containers, groups, checks and state are
`setadam_core.inplace`'s, which NumPy's class shares. Importing this needs neither CuPy nor a device; making an
optimizer does.
"""

from setadam_cupy.optimizer import SETAdam

__all__ = ["SETAdam"]
