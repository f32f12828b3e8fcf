"""Checks, run in several processes: DTensors of any layout take the step that one process takes."""

import itertools
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lockstep import Lockstep, same_on_all, whole
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

from setadam_core import Rounding
from setadam_torch import SETAdam

SHAPES = [(5, 3), (1, 7), (), (0, 3), (130, 9)]
OPTIONS = [
    {},
    {"foreach": False, "lr": 0.1, "weight_decay": 0.1},
    {"foreach": True, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    {"cos_power": 4.0, "tau": 0.9},
    {"cos_power": 0.0, "betas": (0.5, 0.9), "capturable": True},
    {"tau": 0.0, "eps_inside_sqrt": False},
]


def placed(full, mesh, placements):
    """A tensor that every process has, as a DTensor: each keeps its part, and nothing is sent."""
    return distribute_tensor(full, mesh, placements, src_data_rank=None)


def fill(params, seed):
    """Gradients like their parameters: many magnitudes, a third of them zero."""
    for i, p in enumerate(params):
        rng = torch.Generator().manual_seed(1000 * seed + i)
        size = torch.randn(p.shape, generator=rng, dtype=torch.float64)
        g = torch.randn(p.shape, generator=rng, dtype=p.dtype) * (10**size * (size > -0.4)).to(p.dtype)
        p.grad = placed(g, p.device_mesh, p.placements) if isinstance(p, DTensor) else g


def parameters(shapes, mesh, all_placements, dtype=torch.float32):
    """One parameter for each shape and placement that fits it, and a plain one."""
    params = []
    for i, (shape, placements) in enumerate(itertools.product(shapes, all_placements)):
        rng = torch.Generator().manual_seed(i)
        full = torch.randn(shape, generator=rng, dtype=torch.float64 if not dtype.is_complex else dtype).to(dtype)
        if all(placement.is_replicate() or placement.dim < len(shape) for placement in placements):
            params.append(placed(full, mesh, placements).requires_grad_())
    return [*params, torch.randn(3, 5).to(dtype).requires_grad_()]


def every_layout_for_50_steps(_):
    """Even, uneven and empty shards, replicas and plain tensors, groups of all options: one collective."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    params = parameters(SHAPES, mesh, [[Shard(0)], [Shard(1)], [Replicate()]])
    n = len(OPTIONS)
    optimizer = SETAdam([{"params": params[i::n], **options} for i, options in enumerate(OPTIONS)], lr=0.01)
    run = Lockstep(optimizer)
    for t in range(50):
        fill(params, t)
        run.step(collectives=1)
    assert same_on_all(params)


def every_dtype(_):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128):
        params = parameters([(5, 3), (1, 2), (9,)], mesh, [[Shard(0)], [Replicate()]], dtype)
        optimizer = SETAdam(params, lr=0.1, weight_decay=0.1)
        run = Lockstep(optimizer)
        for t in range(4):
            fill(params, t)
            run.step(collectives=1)
        state = optimizer.state[params[0]]
        real = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
        assert state["exp_avg_sq"].dtype == (dtype if dtype.is_complex else real)
        assert state["exp_avg_sq"].placements == params[0].placements


def parts_of_unusual_kinds(_):
    """Local parts of which no address may be taken: the gradient's is the result of a collective, is lazily negative,
    or all wrap other tensors.
    """
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    twins = {}
    for kind in ("plain", "a collective's", "negative", "wrapped"):
        p = placed(torch.arange(1.0, 16.0).reshape(5, 3), mesh, [Shard(0)])
        g = placed(torch.linspace(-1, 1, 15).reshape(5, 3), mesh, [Shard(0)])
        if kind == "wrapped":
            p = with_part(p, TwoTensor(p._local_tensor, p._local_tensor.clone()))
        p.requires_grad_()
        if kind == "a collective's":
            g = with_part(g, AsyncCollectiveTensor(g._local_tensor))
        elif kind == "negative":
            g = with_part(g, torch._neg_view(-g._local_tensor))
        elif kind == "wrapped":
            g = with_part(g, TwoTensor(g._local_tensor, g._local_tensor.clone()))
        p.grad = g
        optimizer = SETAdam([p], lr=0.5)
        for _ in range(2):
            optimizer.step()
        part = p.detach()._local_tensor
        twins[kind] = part.a if isinstance(part, TwoTensor) else part
    for kind, part in twins.items():  # by the kernel, and by operations: θ ≤ 15, an update of at most 10, d = 15
        apart = 2 * 2 * (15 + (3 * 14 + 8 + 24) / 2 * 10) * 2**-24
        torch.testing.assert_close(
            part, twins["plain"], rtol=0, atol=apart, msg=lambda text, kind=kind: f"{kind}: {text}"
        )


def with_part(x, part):
    """The DTensor x with another local part of the same values."""
    return DTensor.from_local(part, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride())


def layers_within_a_parameter(_):
    """Stacked layers: cut between them, nothing is sent; cut through them, each keeps its own γ."""
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    between = parameters([(6, 4, 3), (1, 3, 2)], mesh, [[Shard(0)], [Replicate()]])[:-1]
    through = parameters([(6, 4, 3), (3, 1, 2)], mesh, [[Shard(1)], [Shard(2)]])[:-1]
    for params, collectives in ((between, 0), (through, 1)):
        optimizer = SETAdam([{"params": params, "layer_axes": (1, 2)}], lr=0.01)
        run = Lockstep(optimizer)
        for t in range(6):
            fill(params, t)
            run.step(collectives)
    found = optimizer.layer_statistics()["0.0"]["gamma"]
    assert found.shape == (6,)


def bad_shards_spoil_their_layer_alone(_):
    """A NaN on one process reaches all of its layer, and no other."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    params = parameters([(8,), (9,)], mesh, [[Shard(0)]])[:-1]
    optimizer = SETAdam(params)
    fill(params, 0)
    if dist.get_rank() == 0:
        params[0].grad._local_tensor[0] = torch.nan
    optimizer.step()
    assert torch.isnan(params[0].full_tensor()).all()
    assert torch.isfinite(params[1].full_tensor()).all()


def gradients_placed_otherwise(_):
    """A Partial gradient (SequenceParallel makes them) is brought to its parameter, and left as it is."""
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    params = parameters([(5, 3)], mesh, [[Shard(0)], [Replicate()]])[:-1]
    optimizer = SETAdam(params, lr=0.1)
    run = Lockstep(optimizer)
    for t in range(3):
        for p, placement in zip(params, (Partial(), Partial("avg")), strict=True):
            rng = torch.Generator().manual_seed(10 * t + dist.get_rank())
            p.grad = DTensor.from_local(torch.randn(5, 3, generator=rng), mesh, [placement])
        given = [p.grad for p in params]
        local = [g.to_local().clone() for g in given]
        run.step(collectives=3)  # one for γ, and one for each gradient
        assert all(p.grad is g for p, g in zip(params, given, strict=True))
        assert all(torch.equal(g.to_local(), x) for g, x in zip(given, local, strict=True))
    assert same_on_all(params)


def statistics_are_those_of_one_process(_):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    sharded = parameters([(5, 3), (1, 7), (130, 9)], mesh, [[Shard(0)], [Shard(1)]])
    alone = [torch.from_numpy(whole(p)).requires_grad_() for p in sharded]
    ours, theirs = SETAdam(sharded), SETAdam(alone)
    for t in range(3):
        fill(sharded, t)
        for p, q in zip(alone, sharded, strict=True):
            p.grad = torch.from_numpy(whole(q.grad))
        ours.step()
        theirs.step()
    with CommDebugMode() as counted:
        found = ours.layer_statistics()
    assert counted.get_total_counts() == 2
    both = [None] * dist.get_world_size()
    dist.all_gather_object(both, found)
    assert all(other == found for other in both)  # bit for bit
    for name, expected in theirs.layer_statistics().items():
        for key, value in expected.items():
            # γ, sums and roots of up to 1170 float32 numbers: some dozen roundings, and v's own.
            assert abs(found[name][key] - value) <= 200 * 2**-24 * max(
                abs(value), expected["stepsize_max"] * (key == "stepsize_std")
            ), (name, key)


class _NothingReadByTheHost(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(function)
        return function(*args, **(kwargs or {}))


def capturable_steps_read_nothing(_):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    params = parameters([(5, 3), (1, 7)], mesh, [[Shard(0)]])[:-1]
    optimizer = SETAdam(params, capturable=True, lr=0.1)
    # The checks read step counts that are on the CPU, as all are here, and no others.
    in_bulk, one_by_one = (mock.patch(f"setadam_torch.checks.{name}.can_be_read") for name in ("in_bulk", "params"))
    with in_bulk as found, one_by_one as also:
        found.return_value = also.return_value = False
        for t in range(3):
            fill(params, t)
            with _NothingReadByTheHost():
                optimizer.step()
    run = Lockstep(optimizer)
    for t in range(3):
        fill(params, t)
        run.step(collectives=1)


def what_does_not_fit_is_refused(_):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    partial = DTensor.from_local(torch.ones(6), mesh, [Partial()]).requires_grad_()
    with pytest.raises(TypeError, match="head: it must be placed by Shard and Replicate, got P"):
        SETAdam([("head", partial)])

    (p,) = parameters([(6,)], mesh, [[Shard(0)]])[:-1]
    fill([p], 0)
    with pytest.raises(ValueError, match="head: differentiable must be False"):
        SETAdam([("head", p)], differentiable=True)

    optimizer = SETAdam([("head", p)])
    optimizer.step()
    before, grad, state = whole(p), p.grad, dict(optimizer.state[p])
    other = DeviceMesh("cpu", torch.arange(dist.get_world_size()).flip(0))
    for change, error, words in [
        ({"grad": torch.ones(6)}, TypeError, "its gradient must be a DTensor"),
        ({"grad": placed(torch.ones(6), other, [Shard(0)])}, ValueError, "its gradient must be on its mesh"),
        ({"exp_avg": placed(torch.ones(6), mesh, [Replicate()])}, ValueError, "must be placed as its parameter"),
        ({"exp_avg": torch.ones(6)}, ValueError, "set_optimizer_state_dict"),
    ]:
        p.grad = change.pop("grad", grad)
        optimizer.state[p] = state | change
        with pytest.raises(error, match=f"head: .*{words}"):
            optimizer.step()
        assert (whole(p) == before).all()


def rounded_stochastically(_):
    """Each coordinate gets the bits of its place in the whole parameter. θ only decays, so that float32 is exact."""
    world = dist.get_world_size()
    mesh, cuts = init_device_mesh("cpu", (world,)), [[Shard(0)], [Shard(1)], [Replicate()]]
    if world == 4:
        mesh = init_device_mesh("cpu", (2, 2))
        cuts = list(itertools.product([Shard(0), Shard(1), Replicate()], repeat=2))
    for dtype in (torch.bfloat16, torch.float16):
        params = parameters([(5, 3), (1, 7), (130, 9), (0, 3), (2, 3, 4)], mesh, cuts, dtype)
        decay = {"lr": 0.5, "weight_decay": 2.0**-8, "decoupled_weight_decay": True}
        optimizer = SETAdam(params, stochastic_rounding=9, **decay)
        for t in range(1, 4):
            for p in params:
                p.grad = torch.zeros_like(p)
            before = [whole(p) for p in params]
            optimizer.step()
            for place, (p, old) in enumerate(zip(params, before, strict=True)):
                decayed = old.astype(np.float32) * np.float32(1 - 2.0**-9)
                expected = Rounding(9, place).round(decayed, old.dtype, t).astype(old.dtype)
                assert whole(p).tobytes() == expected.tobytes(), (place, p)
        assert same_on_all(params)


def rounded_where_places_are_not_known(_):
    """Strided shards, of FSDP2 over tensor parallelism, are refused before anything changes."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    local = torch.ones(2, 3, dtype=torch.bfloat16)
    p = DTensor.from_local(local, mesh, [_StridedShard(0, split_factor=2)], run_check=False)
    p.grad = DTensor.from_local(torch.ones_like(local), mesh, p.placements, run_check=False)
    with pytest.raises(ValueError, match="stochastic_rounding must be False for a parameter that is placed by other"):
        SETAdam([p], stochastic_rounding=True)
    optimizer = SETAdam([p])
    optimizer.param_groups[0]["stochastic_rounding"] = 3
    with pytest.raises(ValueError, match="stochastic_rounding must be False for a parameter that is placed by other"):
        optimizer.step()
    assert torch.equal(p._local_tensor, torch.ones_like(local))
    assert not optimizer.state[p]


def meshes_of_two_dimensions(_):
    """Each layer is gathered over the dimensions that cut it: one collective for each set of processes."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    cuts = [Shard(0), Shard(1), Replicate()]
    all_placements = list(itertools.product(cuts, cuts))
    params = parameters([(5, 3), (1, 70)], mesh, all_placements)
    optimizer = SETAdam(params, lr=0.01)
    run = Lockstep(optimizer)
    for t in range(50):
        fill(params, t)
        run.step(collectives=3)
    assert same_on_all(params)

    stacks = parameters([(3, 4, 5)], mesh, [[Shard(0), Shard(1)], [Shard(2), Shard(0)]])[:-1]
    optimizer = SETAdam([{"params": stacks, "layer_axes": (1, 2)}], lr=0.01)
    run = Lockstep(optimizer)
    for t in range(4):
        fill(stacks, t)
        run.step(collectives=2)


def several_meshes(_):
    """Parameters of one group on the world, and on meshes that hold half of the processes each."""
    rank = dist.get_rank()
    world, halves = init_device_mesh("cpu", (4,)), [DeviceMesh("cpu", [0, 1]), DeviceMesh("cpu", [2, 3])]
    own = halves[rank // 2]
    across = init_device_mesh("cpu", (2, 2))  # without names; cut along both dimensions
    params = [parameters([(5, 3)], mesh, [[Shard(0)]])[0] for mesh in (world, own)]
    params.append(parameters([(5, 3)], across, [[Shard(0), Shard(0)]])[0])
    optimizer = SETAdam(params, lr=0.01)
    run = Lockstep(optimizer)
    for t in range(4):
        fill(params, t)
        run.step(collectives=2)  # the same four processes hold the first and the last
    absent = parameters([(5, 3)], halves[0], [[Shard(0)]])[0]
    fill([absent], 0)
    optimizer = SETAdam([absent])
    optimizer.step()
    assert optimizer.state[absent]["step"] == 1


def three_dimensions(_):
    """Replicated along one, cut along two others that are not the whole world: a group of their own."""
    mesh = init_device_mesh("cpu", (2, 2, 1), mesh_dim_names=("replicate", "shard", "tensor"))
    params = parameters([(5, 3)], mesh, [[Replicate(), Shard(0), Shard(1)], [Shard(0), Replicate(), Shard(0)]])[:-1]
    optimizer = SETAdam(params, lr=0.01)
    run = Lockstep(optimizer)
    for t in range(4):
        fill(params, t)
        run.step(collectives=2)
    assert same_on_all(params)


def kernels_in_two_passes(_):
    """Triton's kernels, under its interpreter, take the same passes around the same collective."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "triton"))
    import interpreted  # noqa: F401  # sets the interpreter right

    from setadam_torch.paths import choice
    from setadam_torch.paths.triton.path import Triton

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Triton, "why_not", lambda group, layer: None)
        assert choice.PATHS[0] is Triton
        for axes, cuts in ((None, [Shard(0)]), ((1,), [Shard(1)])):
            params = parameters([(5, 3), (1, 7)], mesh, [cuts])[:-1]
            optimizer = SETAdam([{"params": params, "layer_axes": axes}], lr=0.01, weight_decay=0.1)
            run = Lockstep(optimizer)
            for t in range(2):
                fill(params, t)
                run.step(collectives=1)
