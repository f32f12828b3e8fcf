"""Checks, run in several processes: the engines that users shard with, on models of theirs."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn as nn
from lockstep import Lockstep, same_on_all, whole
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from setadam_numpy import kernel
from setadam_torch import SETAdam


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 12)
        self.down = nn.Linear(12, 6)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(self.norm(x))))


def model(dtype=torch.float32):
    """The same on every process. Its last layer has fewer rows than there are processes."""
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(6, 1)).to(dtype)


def batch(t, same=False, dtype=torch.float32):
    """(8, 4, 6) inputs; of its own for each process unless they are to be the same."""
    rng = torch.Generator().manual_seed(100 * t + (0 if same else dist.get_rank()))
    return torch.randn(8, 4, 6, generator=rng).to(dtype)


def backward(net, x):
    net(x).float().square().mean().backward()


def fsdp(net, mesh, **options):
    for block in net[:2]:
        fully_shard(block, mesh=mesh, **options)
    return fully_shard(net, mesh=mesh, **options)


def tensor_parallel(net, mesh):
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    for block in net[:2]:
        parallelize_module(block, mesh, plan)
    return net


def fsdp2_for_50_steps(_):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    net = fsdp(model(), mesh)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = SETAdam([{"params": decayed, "weight_decay": 0.1}, {"params": others}], lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    run = Lockstep(optimizer)
    for t in range(50):
        backward(net, batch(t))
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        run.step(collectives=1)
        scheduler.step()
        optimizer.zero_grad()
    assert same_on_all(net.parameters())


def fsdp2_with_mixed_precision_and_offload(_):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    mixed = {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)}
    offloaded = {"offload_policy": CPUOffloadPolicy(pin_memory=False)}
    for dtype, options in ((torch.float32, mixed), (torch.float32, offloaded), (torch.bfloat16, {})):
        net = fsdp(model(dtype), mesh, **options)
        optimizer = SETAdam(net.parameters(), lr=0.01)
        run = Lockstep(optimizer)
        for t in range(4):
            backward(net, batch(t, dtype=dtype))
            run.step(collectives=1)
            optimizer.zero_grad()
        assert all(optimizer.state[p]["exp_avg"].dtype == torch.float32 for p in net.parameters())


def tensor_parallel_layers(_):
    """Cut by columns and by rows; what is not parallelized stays a plain tensor, in the same group."""
    net = tensor_parallel(model(), init_device_mesh("cpu", (dist.get_world_size(),)))
    assert {isinstance(p, DTensor) for p in net.parameters()} == {True, False}
    optimizer = SETAdam(net.parameters(), lr=0.01, weight_decay=0.01, decoupled_weight_decay=True)
    run = Lockstep(optimizer)
    for t in range(10):
        backward(net, batch(t, same=True))
        run.step(collectives=1)
        optimizer.zero_grad()
    assert same_on_all(net.parameters())


def sequence_parallel_norms(_):
    """Norms of a sequence that is cut have gradients that are Partial: they are summed up first."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    net = nn.Sequential(nn.LayerNorm(6))
    parallelize_module(net, mesh, {"0": SequenceParallel(sequence_dim=1)})
    optimizer = SETAdam(net.parameters(), lr=0.01)
    run = Lockstep(optimizer)
    for t in range(5):
        backward(net, batch(t, same=True))
        partial = sum(p.grad.placements[0].is_partial() for p in net.parameters())
        run.step(collectives=partial)
        optimizer.zero_grad()
    assert same_on_all(net.parameters())


def state_dicts(_):
    """Sharded and full state dicts go out and in, and the run goes on bit for bit."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for dtype in (torch.float32, torch.bfloat16):
        net = fsdp(model(dtype), mesh)
        optimizer = SETAdam(net.parameters(), lr=0.01, tau=0.3)
        for t in range(3):
            backward(net, batch(t, dtype=dtype))
            optimizer.step()
            optimizer.zero_grad()
        for full in (False, True):
            options = StateDictOptions(full_state_dict=full, broadcast_from_rank0=full)
            saved = get_optimizer_state_dict(net, optimizer, options=StateDictOptions(full_state_dict=full))
            other = fsdp(model(dtype), mesh)
            with torch.no_grad():
                for p, q in zip(other.parameters(), net.parameters(), strict=True):
                    p._local_tensor.copy_(q._local_tensor)
            resumed = SETAdam(other.parameters())
            set_optimizer_state_dict(other, resumed, copy.deepcopy(saved), options=options)
            assert resumed.param_groups[0]["tau"] == 0.3
            for p, q in zip(other.parameters(), net.parameters(), strict=True):
                ours, theirs = resumed.state[p], optimizer.state[q]
                assert ours["exp_avg"].dtype == torch.float32
                assert ours["exp_avg"].placements == p.placements
                assert torch.equal(ours["exp_avg_sq"]._local_tensor, theirs["exp_avg_sq"]._local_tensor)
                assert ours["step"] == 3
        again = SETAdam(net.parameters())
        again.load_state_dict(optimizer.state_dict())  # torch's own way, on the same layout
        for one in (resumed, again):
            target = other if one is resumed else net
            before = [whole(p) for p in target.parameters()]
            backward(target, batch(3, dtype=dtype))
            one.step()
            one.zero_grad()
            if one is resumed:
                after = [whole(p) for p in other.parameters()]
        assert all((whole(p) == x).all() for p, x in zip(net.parameters(), after, strict=True))
        assert not all((x == y).all() for x, y in zip(before, after, strict=True))


def grad_scaler_with_shards(_):
    """GradScaler unscales and skips by itself, also with fused=True: alone, a process would not see the others' ∞."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fused = True if kernel.why_not() is None else None
    nets = [fsdp(model(), mesh) for _ in range(2)]
    scaled, plain = (SETAdam(net.parameters(), lr=0.01, fused=fused) for net in nets)
    assert not scaled._step_supports_amp_scaling
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # a power of two: it comes out to the bit
    for t in range(3):
        for net, scale in zip(nets, (scaler.scale, lambda loss: loss), strict=True):
            scale(net(batch(t)).square().mean()).backward()
        scaler.step(scaled)
        scaler.update()
        plain.step()
        for p, q in zip(*(net.parameters() for net in nets), strict=True):
            assert torch.equal(p.to_local(), q.to_local())
            p.grad = q.grad = None
    before = [p.to_local().clone() for p in nets[0].parameters()]
    scaler.scale(nets[0](batch(3)).square().mean()).backward()
    if dist.get_rank() == 0:
        next(nets[0].parameters()).grad.to_local().fill_(torch.inf)
    scaler.step(scaled)
    scaler.update()
    assert scaler.get_scale() == 512.0
    for p, x in zip(nets[0].parameters(), before, strict=True):
        assert torch.equal(p.to_local(), x)
        assert scaled.state[p]["step"] == 3


def wrappers_with_whole_layers(_):
    """DDP and ZeRO keep layers whole: nothing is different, bit for bit, from one process."""
    alone, replicated, partitioned = model(), DistributedDataParallel(model()), DistributedDataParallel(model())
    ours = SETAdam(alone.parameters(), lr=0.01)
    ddp = SETAdam(replicated.parameters(), lr=0.01)
    zero = ZeroRedundancyOptimizer(partitioned.parameters(), optimizer_class=SETAdam, lr=0.01)
    for t in range(5):
        for net in (replicated, partitioned):
            backward(net, batch(t))
        for p, q in zip(alone.parameters(), replicated.parameters(), strict=True):
            p.grad = q.grad.clone()
        for optimizer in (ours, ddp, zero):
            optimizer.step()
            optimizer.zero_grad()
        for p, q, r in zip(alone.parameters(), replicated.parameters(), partitioned.parameters(), strict=True):
            assert torch.equal(p, q)
            assert torch.equal(p, r)
    assert len(zero.optim.state) < len(list(partitioned.parameters()))


def flattened_parameters_are_refused(_):
    from torch.distributed.fsdp import FullyShardedDataParallel

    for original in (False, True):
        net = FullyShardedDataParallel(model(), device_id=torch.device("cpu"), use_orig_params=original)
        with pytest.raises(TypeError, match=r"flattened by FSDP1 .*fully_shard \(FSDP2\)"):
            SETAdam(net.parameters())


def compiled_steps(_):
    """torch.compile leaves the steps of shards to Python."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    net, other = fsdp(model(), mesh), fsdp(model(), mesh)
    compiled, plain = SETAdam(net.parameters(), lr=0.01), SETAdam(other.parameters(), lr=0.01)
    step = torch.compile(compiled.step, backend="eager")
    for t in range(3):
        for m in (net, other):
            backward(m, batch(t))
        step()
        plain.step()
        compiled.zero_grad()
        plain.zero_grad()
    assert all(
        torch.equal(p._local_tensor, q._local_tensor) for p, q in zip(net.parameters(), other.parameters(), strict=True)
    )


def fsdp2_over_tensor_parallelism(_):
    """Two dimensions: strided shards, cut by both. One collective for each set of processes."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    net = fsdp(tensor_parallel(model(), mesh["tensor"]), mesh["data"])
    placements = {p.placements for p in net.parameters()}
    assert any("Strided" in type(x).__name__ for each in placements for x in each), placements
    optimizer = SETAdam(net.parameters(), lr=0.01)
    run = Lockstep(optimizer)
    for t in range(10):
        backward(net, batch(t, same=True))
        run.step(collectives=len({_cut(p) for p in net.parameters()}))
        optimizer.zero_grad()
    assert same_on_all(net.parameters())


def _cut(p):
    """The mesh dimensions that cut a parameter, by name: which processes hold it follows."""
    return tuple(n for n, x in zip(p.device_mesh.mesh_dim_names, p.placements, strict=True) if not x.is_replicate())


def hybrid_sharding(_):
    """HSDP: replicas of shards. Each replica gathers within itself, and counts no coordinate twice."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    net = fsdp(model(), mesh)
    assert {p.placements for p in net.parameters()} == {(Replicate(), Shard(0))}
    optimizer = SETAdam(net.parameters(), lr=0.01)
    run = Lockstep(optimizer)
    for t in range(10):
        backward(net, batch(t))
        run.step(collectives=1)
        optimizer.zero_grad()
    assert same_on_all(net.parameters())
