"""What a step sends in a world of up to 1,024 simulated processes, from the tensors that it hands over."""

from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
from launch_counts import launches_of  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.tensor import DTensor, Replicate, Shard  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from setadam_torch import SETAdam  # noqa: E402
from setadam_torch.paths import choice, foreach  # noqa: E402

WORDS = 4  # a layer and process: max v, Σr, Σr², min v


@contextmanager
def world(ranks):
    """This process as the first of a world in which nothing is really sent."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


class Sent(TorchDispatchMode):
    """Words of 8 bytes that each collective takes from this process and brings to it."""

    def __init__(self):
        super().__init__()
        self.collectives = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace in ("c10d", "_c10d_functional"):
            self.collectives.append((str(function), args[1].nbytes // 8, args[0].nbytes // 8))
        return function(*args, **(kwargs or {}))


def step(mesh, placements, layers, rows):
    """What the step of some layers, of `rows` rows on this process, sends."""
    params = []
    for _ in range(layers):
        p = DTensor.from_local(torch.ones(rows, 4), mesh, placements).requires_grad_()
        p.grad = DTensor.from_local(torch.ones(rows, 4), mesh, placements)
        params.append(p)
    optimizer = SETAdam(params)
    with Sent() as sent:
        optimizer.step()
    return sent.collectives


@pytest.mark.parametrize("ranks", [2, 32, 1024])
@pytest.mark.parametrize("layers", [1, 100])
@pytest.mark.parametrize("rows", [1, 500])
def test_words_go_by_layers_and_ranks_and_not_by_coordinates(ranks, layers, rows):
    with world(ranks):
        ((name, sent, received),) = step(init_device_mesh("cpu", (ranks,)), [Shard(0)], layers, rows)
    assert "allgather" in name
    assert (sent, received) == (WORDS * layers, WORDS * layers * ranks)


def test_replicas_send_nothing_and_are_not_counted():
    with world(1024):
        mesh = init_device_mesh("cpu", (128, 8))
        ((_, sent, received),) = step(mesh, [Replicate(), Shard(0)], 5, 3)
        assert (sent, received) == (WORDS * 5, WORDS * 5 * 8)
        assert step(mesh, [Replicate(), Replicate()], 5, 3) == []


def test_two_dimensions_are_gathered_at_once():
    with world(1024):
        ((_, sent, received),) = step(init_device_mesh("cpu", (128, 8)), [Shard(0), Shard(1)], 5, 3)
        assert (sent, received) == (WORDS * 5, WORDS * 5 * 1024)
        mesh = init_device_mesh("cpu", (4, 32, 8))
        ((_, sent, received),) = step(mesh, [Replicate(), Shard(0), Shard(1)], 5, 3)
        assert (sent, received) == (WORDS * 5, WORDS * 5 * 32 * 8)


@pytest.mark.parametrize("empty", [False, True])
def test_as_many_launches_for_a_hundred_layers_as_for_ten(monkeypatch, empty):
    """The operations of a step on a device, without Triton. Some layers have no row on this process."""
    monkeypatch.setattr(choice, "PATHS", (foreach.Foreach,))
    monkeypatch.setattr(foreach, "_lists_are_faster", lambda vs, layers: True)
    counts = []
    with world(32):
        mesh = init_device_mesh("cpu", (32,))
        for layers in (10, 100):
            params = []
            for i in range(layers):
                rows = 0 if empty and i % 2 else 1 + i % 3
                whole = {"shape": torch.Size((90 + i % 5, 4)), "stride": (4, 1)}
                p, grad = (DTensor.from_local(torch.rand(rows, 4), mesh, [Shard(0)], **whole) for _ in "pg")
                params.append(p.requires_grad_())
                p.grad = grad
            optimizer = SETAdam(params)
            optimizer.step()
            counts.append(launches_of(optimizer.step))
    assert counts[0] == counts[1]
