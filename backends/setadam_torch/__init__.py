"""SET-Adam (arXiv 2302.01029) for PyTorch: a `torch.optim.Optimizer`, at home wherever
`torch.optim.Adam` is. The algorithm is `setadam_core`'s; here it becomes groups, state and speed.

`optimizer` is the face. It stands on four folders, each of which imports only those after it:
`state` (what outlives a step), `sharding` (layers spread over processes), `paths` (ways to compute a step) and
`checks` (what options and tensors must be). `conformance` holds the adapters for the conformance kit. Public is
what is named here.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    from setadam_core.extras import pip_install

    raise ImportError(f"setadam_torch needs PyTorch: {pip_install('torch')}") from error

from setadam_torch.optimizer import SETAdam
from setadam_torch.state.interchange import load_neutral, to_neutral

__all__ = ["SETAdam", "load_neutral", "to_neutral"]
