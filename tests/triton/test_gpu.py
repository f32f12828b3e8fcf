"""What only a GPU can show: agreement of the compiled kernels, CUDA graphs, no waiting, no allocation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import TritonSteps, check_grad_scaler
from torch.profiler import ProfilerActivity, profile

from setadam_conformance.cases import strategies
from setadam_conformance.judging.bench import Bench
from setadam_torch import SETAdam
from setadam_torch.paths.triton import launches, tables

pytestmark = pytest.mark.gpu
SHAPES = st.sampled_from([(1,), (), (0,), (511,), (4096,), (4097,), (64, 200), (3, 5), (100_003,)])


def layers(*shapes, dtype=torch.float32, **options):
    """A group's options, and params, grads, moments and steps on the GPU, before the first step."""
    torch.manual_seed(0)
    params = [torch.randn(s, device="cuda").to(dtype) for s in shapes]
    grads = [torch.randn_like(p) for p in params]
    moments = torch.float64 if dtype == torch.float64 else torch.float32
    ms, vs = ([torch.zeros_like(p, dtype=moments) for p in params] for _ in "mv")
    steps = [torch.zeros((), dtype=torch.float64, device="cuda") for _ in params]
    return SETAdam(params, **options).param_groups[0], [params, grads, ms, vs, steps]


def copies(columns):
    return [[x.clone() for x in xs] for xs in columns]


def same(a, b):
    return all(torch.equal(x, y) for xs, ys in zip(a, b, strict=True) for x, y in zip(xs, ys, strict=True))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@settings(max_examples=60)
@given(data=st.data())
def test_the_compiled_kernels_conform(dtype, data):
    adapter = TritonSteps("cuda")
    Bench(adapter, dtype).conform(data.draw(strategies.cases(adapter.capabilities, dtype, shape=SHAPES)))


@pytest.mark.parametrize("axes", [(), (1,), (0, 2), (1, 2)])
def test_layer_axes(axes):
    adapter = TritonSteps("cuda")

    @settings(max_examples=10)
    @given(strategies.layers("float32", (3, 4, 5), 3, axes=axes))
    def conforms(layer):
        Bench(adapter, "float32").conform(strategies.Case("float32", (layer,), 3))

    conforms()


def test_the_same_bits_each_time():
    group, columns = layers((1000, 1003), (7,), (1 << 22,))
    runs = [copies(columns) for _ in range(5)]
    for run in runs:
        for _ in range(3):
            launches.step_layers(group, run)
    assert all(same(runs[0], run) for run in runs)


def test_nothing_waits_for_the_device():
    """Not even the first step, which makes the plan."""
    group, columns = layers((300, 5), (7,))
    other = copies(columns)
    launches.step_layers(group, other)  # compiles
    lr = torch.tensor(1e-3, device="cuda")
    launches.step_layers({**group, "lr": lr}, other)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            launches.step_layers(group, columns)
            launches.step_layers({**group, "lr": lr}, columns)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_allocates_nothing():
    group, columns = layers((300, 5), (7,), (1 << 20,))
    launches.step_layers(group, columns)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for _ in range(3):
        launches.step_layers(group, columns)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.parametrize("count", [1, 500])
def test_two_launches_for_any_number_of_layers(count):
    group, columns = layers(*[(300,)] * count)
    launches.step_layers(group, columns)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        launches.step_layers(group, columns)
        torch.cuda.synchronize()
    on_device = [e.name for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert on_device == ["moments_kernel", "descend_kernel"]


@pytest.mark.parametrize("fresh_grads", [False, True])
def test_a_cuda_graph_holds_the_step(fresh_grads):
    """Captured with the gradients of the warm-up, or with new ones that the graph's own memory holds."""
    lr = torch.tensor(1e-2, device="cuda")
    group, columns = layers((300, 50), (7,), (4096,))
    group = {**group, "lr": lr}
    eager = copies(columns)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            launches.step_layers(group, columns)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grads = [g * 1 for g in columns[1]] if fresh_grads else columns[1]
        launches.step_layers(group, [columns[0], grads, *columns[2:]])
    for k in range(3, 6):
        lr.fill_(1e-2 * k)
        graph.replay()
        launches.step_layers({**group, "lr": 1e-2}, layers((999,))[1])  # other work in between
    for k in (1, 1, 3, 4, 5):
        lr.fill_(1e-2 * k)
        launches.step_layers(group, eager)
    assert same(columns, eager)


@pytest.mark.parametrize("shapes", [[(1 << 22,), (7,), (0,)], [(1000,)] * 3000, [(4097,), (1 << 20,)] * 20])
def test_one_launch_is_the_step_and_ends(shapes, monkeypatch):
    group, columns = layers(*shapes)
    one = copies(columns)
    for _ in range(3):
        launches.step_layers(group, columns)
    monkeypatch.setattr(tables, "ONE_LAUNCH", True)
    for _ in range(3):
        launches.step_layers(group, one)
    torch.cuda.synchronize()
    assert same(columns, one)


def test_layers_between_words_are_as_good():
    """θ and g, or all, some coordinates after a 16-byte word: γ may differ by roundings in double."""
    for shifts in ((1, 1, 0, 0), (3, 3, 3, 3), (0, 1, 2, 3)):
        group, columns = layers((100_003,), (300,))
        moved = copies(columns)
        for i, shift in enumerate(shifts):
            moved[i] = [torch.cat([x.new_zeros(shift), x])[shift:] for x in columns[i]]
        launches.step_layers(group, columns)
        launches.step_layers(group, moved)
        torch.testing.assert_close(moved, columns, rtol=1e-6, atol=1e-9)


def test_grad_scaler():
    check_grad_scaler(*layers((30, 5), (70,)))


def test_offsets_beyond_32_bits():
    d = 2**31 + 4097
    if torch.cuda.mem_get_info()[0] < 14 * d:
        pytest.skip("needs 30 GB of free GPU memory")
    g = torch.ones(d, device="cuda", dtype=torch.bfloat16)
    p, m, v = torch.zeros_like(g), *(torch.zeros(d, device="cuda") for _ in "mv")
    group = SETAdam([torch.zeros(1)], lr=1.0).param_groups[0]
    launches.step_layers(group, [[p], [g], [m], [v], [torch.zeros((), dtype=torch.float64, device="cuda")]])
    assert (m == m[0]).all()
    assert (p == p[0]).all()  # constant gradients: γ = 1, w = √(1 + ε), θ = -η / (1 - τ)
    assert p[-1].item() == -2
