"""What a step allocates beside its state: the largest sum of bytes of tensors that live at one time."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from setadam_torch import SETAdam
from setadam_torch.paths import choice
from setadam_torch.paths.foreach import Foreach
from setadam_torch.paths.rows import _SHARE


class Peak(TorchDispatchMode):
    """Counts the storages that operations have made and that are still in use, after each operation."""

    def __init__(self, known):
        super().__init__()
        self._known = {x.untyped_storage().data_ptr() for x in known}
        self._made, self.bytes = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self._known:
                storage = x.untyped_storage()
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._made = {key: made for key, made in self._made.items() if not made[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self._made.values()))
        return out


def peak(dtype, shapes, **options):
    """Bytes that a step allocates at most, in units of all parameters in the compute dtype."""
    params = [torch.randn(s).to(dtype).requires_grad_() for s in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = SETAdam(params, **{"fused": False, **options})
    optimizer.step()
    known = [x for p in params for x in (p, p.grad, *optimizer.state[p].values())]
    with Peak(known) as counted:
        optimizer.step()
    word = 8 if dtype == torch.float64 else 4
    return counted.bytes / (word * sum(p.numel() for p in params))


@pytest.mark.parametrize(
    ("dtype", "options", "blocks"),
    [
        (torch.float32, {}, 1),
        (torch.float32, {"weight_decay": 0.1, "maximize": True}, 2),
        (torch.bfloat16, {}, 3),
        (torch.bfloat16, {"weight_decay": 0.1, "maximize": True}, 4),
    ],
)
def test_blocks_allocate_a_few_blocks(monkeypatch, dtype, options, blocks):
    """The denominator; a gradient of our own; both the gradient and the parameter of 16 bits widened."""
    monkeypatch.setattr("setadam_torch.paths.blocks.BLOCK", 2048)
    monkeypatch.setattr("setadam_torch.paths.blocks.SMALL", 0)
    shapes = [(20000, 11), (2048, 3)]
    words = peak(dtype, shapes, **options) * sum(torch.Size(s).numel() for s in shapes)
    sums = 2 * (3 + 1 + 3)  # a block, in double: three; its scale; and to merge them a ratio, its square, a product
    assert words < blocks * 2048 + sums * 220000 / 2048 + 128


@pytest.mark.parametrize(
    ("dtype", "options", "words"),
    [
        (torch.float32, {}, 1),
        (torch.float32, {"weight_decay": 0.1, "maximize": True}, 1),
        (torch.float32, {"weight_decay": 0.1, "decoupled_weight_decay": True}, 1),
        (torch.bfloat16, {}, 1),
        (torch.bfloat16, {"weight_decay": 0.1, "maximize": True}, 1),
        (torch.float16, {}, 1),
    ],
)
def test_foreach_allocates_one_temporary_of_a_groups_size(monkeypatch, dtype, options, words):
    monkeypatch.setattr(choice, "PATHS", (Foreach,))
    shapes = [(60, 40), (50,), (64, 64), (7, 9), (32, 64), (3000,), (40, 30)]
    # Beside it, a layer's last row is partly empty, and a row of 64 coordinates or more has an owner, of two words, and
    # a number of its own with its copy; and O(1) a layer.
    assert peak(dtype, shapes, **options) < words * (1 + 1 / _SHARE + 4 / 64) + 0.01


def test_foreach_of_16_bits_needs_two_temporaries_of_a_layer_that_is_most_of_its_group(monkeypatch):
    monkeypatch.setattr(choice, "PATHS", (Foreach,))
    assert 1.5 < peak(torch.bfloat16, [(300, 40), (50,)]) < 2.05
