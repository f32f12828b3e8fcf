"""SET-Adam (arXiv 2302.01029) for PyTorch: a `torch.optim.Optimizer`, at home wherever
`torch.optim.Adam` is. The algorithm is `setadam_core`'s; here it becomes groups, state and speed.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError('setadam_torch needs PyTorch: pip install "setadam[torch]"') from error

from setadam_torch._interchange import load_neutral, to_neutral
from setadam_torch._optimizer import SETAdam

__all__ = ["SETAdam", "load_neutral", "to_neutral"]
