"""A step in which one tensor is of an unusual kind, for every kind, role and path. Run as a program by test_kinds.py,
since a mistake here ends the process.

    python tensor_kinds.py BEGIN        the cases from number BEGIN on: each one's number, and then its outcome as JSON
"""

import itertools
import json
import sys
import warnings

import torch
from torch._subclasses import FakeTensorMode
from torch.distributed._functional_collectives import AsyncCollectiveTensor

from setadam_torch import SETAdam

SHAPE = (2, 3, 4, 2)
ROLES = ("param", "grad", "exp_avg", "exp_avg_sq", "step")
PATHS = {"default": {}, "fused": {"fused": True}, "blocks": {"foreach": True}}
PATHS |= {"foreach": {"capturable": True}, "single": {"foreach": False}}
# With these, v and its sums are exact in float32 (see `tensors`), whatever the order of memory and of additions.
EXACT = {"betas": (0.5, 0.5)}
REFUSALS = (TypeError, ValueError, KeyError, RuntimeError)  # NotImplementedError is a RuntimeError


class Subclass(torch.Tensor):
    """Of the kind that carries a name or a unit: its memory is a tensor's."""


class Wrapper(torch.Tensor):
    """A tensor around another one, without memory. It knows single operations only, and no lists of tensors."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=inner.device
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if "foreach" in str(func):
            raise NotImplementedError(f"{func} of a Wrapper")
        bare = torch.utils._pytree.tree_map_only(Wrapper, lambda x: x.inner, (args, kwargs or {}))
        out = func(*bare[0], **bare[1])
        if func._schema.name[-1] == "_":
            return args[0]
        return torch.utils._pytree.tree_map_only(torch.Tensor, Wrapper, out)


def fake(x):
    with FakeTensorMode() as mode:
        return mode.from_tensor(x)


def freed(x):
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def of_vmap(x):
    kept = []
    torch.func.vmap(lambda row: kept.append(row) or row)(x[None].clone())
    return kept[0]


def of_inference(x):
    with torch.inference_mode():
        return x.clone()


def with_gaps(x):
    return torch.stack([x, x], dim=-1)[..., 0] if x.ndim else torch.stack([x, x])[1]


def turned(x):
    return x.mT.contiguous().mT if x.ndim else x.clone()


def channels_last(x):
    return x.clone(memory_format=torch.channels_last) if x.ndim else x.clone()


def offset(x):
    return torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].reshape(x.shape)


def conjugate(x):
    return torch.conj(torch.conj_physical(x.to(torch.complex64)))


KINDS = {
    "plain": torch.clone,
    "a parameter": lambda x: torch.nn.Parameter(x.clone(), requires_grad=x.is_floating_point()),
    "subclass": lambda x: x.clone().as_subclass(Subclass),
    "wrapper": lambda x: Wrapper(x.clone()),
    "result of a collective": lambda x: AsyncCollectiveTensor(x.clone()),
    "fake": fake,
    "meta": lambda x: x.to("meta"),
    "functional": lambda x: torch._to_functional_tensor(x.clone()),
    "of a functorch transform": of_vmap,
    "lazily negative": lambda x: torch._neg_view(-x),
    "lazily conjugate": conjugate,
    "lazily zero": lambda x: torch._efficientzerotensor(tuple(x.shape), dtype=x.dtype),
    "lazily cloned": lambda x: torch._lazy_clone(x.clone()),
    "freed": freed,
    "of inference mode": of_inference,
    "turned": turned,
    "with gaps": with_gaps,
    "channels last": channels_last,
    "offset": offset,
    "expanded": lambda x: x.reshape(-1)[:1].clone().expand(x.shape),
    "shared": lambda x: x.clone().share_memory_(),
    "sparse": lambda x: x.clone().to_sparse(),
    "mkldnn": lambda x: x.clone().to_mkldnn(),
    "nested": lambda x: torch.nested.nested_tensor(list(x)) if x.ndim else torch.nested.nested_tensor([x[None]]),
    "jagged": lambda x: torch.nested.nested_tensor(list(x.reshape(2, -1)), layout=torch.jagged),
    "masked": lambda x: torch.masked.masked_tensor(x.clone(), torch.ones_like(x, dtype=torch.bool)),
    "quantized": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
    "of one element more": lambda x: torch.cat([x.reshape(-1), x.new_zeros(1)]),
    "of another shape": lambda x: x.reshape(*x.shape, 1),
    "float64": lambda x: x.double(),
    "bfloat16": lambda x: x.to(torch.bfloat16),
    "int64": lambda x: x.to(torch.int64),
    "bool": lambda x: x.bool(),
    "an array": lambda x: x.numpy(),
    "a number": lambda x: 3,
    "nothing": lambda x: None,
}
CASES = list(itertools.product(KINDS, ROLES, PATHS))


def tensors(kind="plain", role=None):
    """θ, g, m, v and t of a layer in the midst of a run, of which one is of a kind, and the same as plain tensors.

    All are small numbers without fractions, and the largest v is a power of two, as are all new v's factors.
    """
    generator = torch.Generator().manual_seed(5)

    def whole(low, high):
        x = torch.randint(low, high + 1, SHAPE, generator=generator).float()
        return torch.complex(x, x.flip(0)) if kind == "lazily conjugate" and role != "step" else x

    found = {"param": whole(1, 9), "grad": whole(1, 2), "exp_avg": whole(1, 9), "exp_avg_sq": whole(1, 2)}
    for key, largest in (("grad", 2), ("exp_avg_sq", 4)):
        found[key][0, 0, 0, 0] = largest * (1 + 1j if found[key].is_complex() else 1)
    found["step"] = torch.tensor(3.0, dtype=torch.float64)
    if role != "step" and role is not None:
        if kind == "expanded":
            found[role] = torch.full(SHAPE, 2.0)
        elif kind == "lazily zero":
            found[role] = torch.zeros(SHAPE)
    return found if role is None else {**found, role: KINDS[kind](found[role])}, found


class Two:
    """An optimizer of two groups: a usual layer, and a given one."""

    def __init__(self, given, role, optimizer, options):
        (usual, _), layers = tensors(), []
        for tensor in (usual["param"], given["param"]):
            layers.append(tensor if isinstance(tensor, torch.nn.Parameter) else torch.nn.Parameter(tensor))
        self.params = layers
        self.optimizer = optimizer([{"params": [p]} for p in layers], **EXACT, **options)
        for p, found in zip(layers, (usual, given), strict=True):
            p.grad = found["grad"]
            if role != "param":  # of an unusual parameter, the optimizer makes the moments itself
                self.optimizer.state[p] = {key: found[key] for key in ("step", "exp_avg", "exp_avg_sq")}

    def values(self):
        """Everything that a step may change, a list for each layer; None for what has no values."""
        states = [self.optimizer.state.get(p, {}) for p in self.params]
        moments = [[value(state.get(key)) for key in ("exp_avg", "exp_avg_sq", "step")] for state in states]
        return [[value(p), *found] for p, found in zip(self.params, moments, strict=True)]


def value(x):
    if not isinstance(x, torch.Tensor) or isinstance(x, torch.nn.UninitializedParameter):
        return x
    try:
        x = x.detach()
    except RuntimeError:
        return None  # of a transform that is over
    if isinstance(x, Wrapper):
        return x.inner.clone()
    if isinstance(x, AsyncCollectiveTensor):
        return x.wait().clone()
    if x.is_meta or isinstance(x, torch._subclasses.FakeTensor) or x.is_nested or type(x).__name__ == "MaskedTensor":
        return None
    if torch._is_functional_tensor(x):
        torch._sync(x)
        return torch._from_functional_tensor(x).clone()
    if x.layout is torch.strided and x.untyped_storage().nbytes() == 0 < x.numel():
        return None
    try:
        x = (x.dequantize() if x.is_quantized else x.to_dense()).resolve_neg().resolve_conj()
        return x.as_subclass(torch.Tensor).clone()
    except RuntimeError:
        return None


def same(a, b):
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.numel() == b.numel() == 1:  # a count, in whatever dtype it is kept
            return float(a) == float(b)
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    return a is None or b is None or type(a) is type(b)


def outcome(kind, role, options):
    """right, refused, or wrong, and why."""
    try:
        given, plain = tensors(kind, role)
        odd = Two(given, role, SETAdam, options)
    except (*REFUSALS, AttributeError) as error:  # torch.nn.Parameter has its own words for what is no tensor
        return "refused", f"{type(error).__name__}: {error}"
    before = odd.values()
    try:
        odd.optimizer.step()
    except REFUSALS as error:
        unchanged = all(all(map(same, *layers)) for layers in zip(before, odd.values(), strict=True))
        text = f"{type(error).__name__}: {error}"
        return ("refused", text) if unchanged else ("wrong", f"refused, but something has changed: {text}")
    twins = []  # the result of any path may be the one for a layer
    for path in PATHS.values():
        twin = Two(plain, role, SETAdam, path)
        plain = tensors(kind, role)[1]
        twin.optimizer.step()
        twins.append(twin.values())
    for i, layer in enumerate(odd.values()):
        if not any(all(map(same, layer, twin[i])) for twin in twins):
            return "wrong", f"layer {i} has come to what no path makes of plain tensors"
    return "right", ""


def adam_copes(kind, role):
    """Whether torch.optim.Adam, as users make it, takes a step without an error."""
    try:
        Two(tensors(kind, role)[0], role, torch.optim.Adam, {}).optimizer.step()
    except Exception:
        return False
    return True


def main(begin):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for number, (kind, role, path) in list(enumerate(CASES))[begin:]:
        print(json.dumps([number]), flush=True)
        verdict, text = outcome(kind, role, PATHS[path])
        # Freed memory ends the process in Adam's default path.
        copes = path == "default" and verdict == "refused" and kind != "freed" and adam_copes(kind, role)
        print(json.dumps([number, verdict, text, copes]), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
