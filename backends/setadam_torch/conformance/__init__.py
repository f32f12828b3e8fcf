"""Adapters for the conformance kit: SETAdam as its options choose a path, compiled, and spread over processes.

Only this package imports the kit, and nothing in setadam_torch imports this package.
"""

from setadam_torch.conformance.adapters import TorchBlocks, TorchForeach, TorchFused, TorchSingle, TorchTwoPasses
from setadam_torch.conformance.compiled import TorchCompiled
from setadam_torch.conformance.default import TorchDefault

__all__ = [
    "TorchBlocks",
    "TorchCompiled",
    "TorchDefault",
    "TorchForeach",
    "TorchFused",
    "TorchSingle",
    "TorchTwoPasses",
]
