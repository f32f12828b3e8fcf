"""Steps of sharded parameters, judged by the conformance kit on the gathered tensors.

Lockstep: each step is judged from the state that the run itself has, against the oracle's bound, as a
step of one process would be. So whatever the shards, it is within the bound of the one-process step.
"""

import functools
import hashlib

import ml_dtypes
import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.debug import CommDebugMode

from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.judging import oracle
from setadam_conformance.judging.judge import judge
from setadam_conformance.protocol import Capabilities, LayerState

CLAIMS = Capabilities(dtypes=("float64", "float32", "bfloat16", "float16"), in_place=True)
_NAMES = ("lr", "eps", "tau", "weight_decay", "cos_power", "decoupled_weight_decay", "maximize", "eps_inside_sqrt")


def whole(x):
    """All of a tensor, on every process, as NumPy bits."""
    return _bits(x.detach().full_tensor() if isinstance(x, DTensor) else x)


def wholes(xs):
    """The same of many tensors, in one exchange: each process hands out its parts and where they belong."""
    parts = [_part(x) for x in xs]
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, parts)
    found = []
    for i, x in enumerate(xs):
        if parts[i] is None:
            found.append(whole(x))
            continue
        full, seen = np.empty(tuple(x.shape), parts[i][1].dtype), {}
        for offset, part in (one[i] for one in everyones):
            full[tuple(slice(start, start + n) for start, n in zip(offset, part.shape, strict=True))] = part
            replica = seen.setdefault((offset, part.shape), part.tobytes())
            assert replica == part.tobytes(), "replicas differ"
        found.append(full)
    return found


def _part(x):
    """The local part of a DTensor, and its offset; None if it is plain, or its part is not one slice."""
    if not isinstance(x, DTensor) or not all(p.is_shard() or p.is_replicate() for p in x.placements):
        return None
    if x.device_mesh.size() != dist.get_world_size():
        return None
    return _offset(x.shape, x.device_mesh, x.placements), _bits(x._local_tensor)


@functools.lru_cache
def _offset(shape, mesh, placements):
    return compute_local_shape_and_global_offset(shape, mesh, placements)[1]


def _bits(x):
    x = x.detach().cpu().contiguous()
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16).copy()
    return x.numpy().copy()


class Lockstep:
    """An optimizer whose every step is judged. Nothing else may change its parameters and state."""

    def __init__(self, optimizer, bounds=False):
        self.optimizer = optimizer
        self._steps = 0
        self._known = {}  # of each parameter: what the last step left, as (param, m, v)
        self.bounds = {} if bounds else None  # of each parameter: the sum of its steps' bounds

    def step(self, collectives=None):
        """One step, judged; the first five with the number of collectives that they may take."""
        optimizer = self.optimizer
        cases, self._steps = self._before(), self._steps + 1
        if collectives is None or self._steps > 5:  # counting takes longer than the step
            optimizer.step()
        else:
            with CommDebugMode() as counted:
                optimizer.step()
            counts = dict(counted.get_comm_counts())
            assert counted.get_total_counts() == collectives, f"{counts}, but {collectives} were due"
        params = [p for _, own in cases for p in own]
        entries = [optimizer.state[p] for p in params]
        after = wholes([*params, *(s["exp_avg"] for s in entries), *(s["exp_avg_sq"] for s in entries)])
        n = len(params)
        self._known = {p: (after[i], _real(after[n + i]), _real(after[2 * n + i])) for i, p in enumerate(params)}
        if dist.get_rank() == 0:
            for case, own in cases:
                self._judge(case, own)

    def _judge(self, case, params):
        news = [self._known[p][0] for p in params]
        states = [LayerState(*self._known[p][1:], int(self.optimizer.state[p]["step"])) for p in params]
        verdict = judge(case, news, states, CLAIMS)
        assert all(s.t == case.t + 1 for s in states)
        assert verdict.conforms, (verdict.parted_at, params[verdict.parted_layer].shape, verdict.scores)
        assert verdict.scores["param"].judged > 0 or all(x.size == 0 for x in news)
        if self.bounds is not None:
            for p, layer, state in zip(params, case.layers, states, strict=True):
                bound = oracle.parameter(case, layer, state.m, state.v, CLAIMS).bound
                self.bounds[p] = self.bounds.get(p, 0) + np.asarray(bound, np.float64)

    def _before(self):
        """The step that is about to be taken, as the kit's cases, one for each group and dtype; their parameters."""
        groups = self.optimizer.param_groups
        found = [(i, p) for i, group in enumerate(groups) for p in group["params"] if p.grad is not None]
        cases = {}
        for (i, p), grad in zip(found, wholes([p.grad for _, p in found]), strict=True):
            state = self.optimizer.state.get(p)
            param, m, v = self._known.get(p) or (whole(p), *_moments(p, state))
            dtype = {"complex64": "float32", "complex128": "float64"}.get(str(param.dtype), str(param.dtype))
            key = i, dtype, int(state["step"]) if state else 0
            layers, params = cases.setdefault(key, ([], []))
            layers.append(LayerCase(param, grad, m, v, groups[i]["layer_axes"]))
            params.append(p)
        return [
            (Case(dtype, tuple(layers), t, _hyperparameters(groups[i])), params)
            for (i, dtype, t), (layers, params) in cases.items()
        ]


def _hyperparameters(group):
    betas = dict(zip(("beta1", "beta2"), group["betas"], strict=True))
    return {name: group[name] for name in _NAMES} | betas | {"lr": float(group["lr"])}


def _real(x):
    return np.ascontiguousarray(x).view(x.real.dtype).reshape(*x.shape, 2) if x.dtype.kind == "c" else x


def _moments(p, state):
    if state:
        return _real(whole(state["exp_avg"])), _real(whole(state["exp_avg_sq"]))
    wide = p.dtype in (torch.float64, torch.complex128)
    zeros = np.zeros((*p.shape, 2) if p.is_complex() else tuple(p.shape), np.float64 if wide else np.float32)
    return zeros, zeros.copy()


def same_on_all(tensors):
    """Whether every process has the same bits of all of these, replicas included."""
    digest = hashlib.sha256(b"".join(whole(x).tobytes() for x in tensors)).hexdigest()
    digests = [None] * dist.get_world_size()
    dist.all_gather_object(digests, digest)
    return len(set(digests)) == 1
