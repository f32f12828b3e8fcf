"""SET-Adam (arXiv 2302.01029) in place on CuPy arrays, by two fused kernels for up to 64 layers at a time.

The kernels keep subnormals; CuPy's own kernels flush them. They are compiled and inspected, and run as C++ on a CPU,
but have not run on a GPU yet. The algorithm is in `setadam_core`; containers, groups, checks and state are in
`setadam_core.inplace`, which NumPy's class shares. You need CuPy and a device to create an optimizer, and neither to
import this package. In this folder: `optimizer`, the kernels (`kernels.cu`) and their launches (`launch`), and CuPy's
view of memory. Not in it: checks.
"""

from setadam_cupy.optimizer import SETAdam

__all__ = ["SETAdam"]
