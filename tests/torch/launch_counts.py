"""How many launches the operations of a step would be on a device."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# No kernel: views, memory without values, and numbers that the host reads of its own memory.
_NO_LAUNCH = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "detach",
    "alias",
    "as_strided",
    "_local_scalar_dense",
}


class Launches(TorchDispatchMode):
    """Counts operations as launches. One on a list is one launch if torch has a kernel for the list, else one for each
    tensor: its other lists must be numbers, or tensors of the same shapes and order in memory. That a launch's
    arguments are full after some fifty tensors is not counted.
    """

    def __init__(self):
        super().__init__()
        self.count = 0
        self.by_name = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        launches = 0 if func.is_view or name in _NO_LAUNCH else _of_lists(args) if name.startswith("_foreach_") else 1
        self.count += launches
        self.by_name[name] = self.by_name.get(name, 0) + launches
        return func(*args, **(kwargs or {}))


def _of_lists(args):
    lists = [x for x in args if isinstance(x, list | tuple) and isinstance(x[0], torch.Tensor)]
    alike = all(len({(x.shape, x.stride()) for x in row}) == 1 for row in zip(*lists, strict=True))
    dense = all(torch.empty_like(x, device="meta").stride() == x.stride() for xs in lists for x in xs)
    one = all(x.ndim == 0 for x in args if isinstance(x, torch.Tensor))
    return 1 if alike and dense and one else len(lists[0])


def launches_of(call):
    """What a call launches, by the name of the operation, without those that launch nothing."""
    with Launches() as seen:
        call()
    assert tree_leaves(seen.by_name)
    return {name: n for name, n in seen.by_name.items() if n}
