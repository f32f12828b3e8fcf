"""What the Triton kernels compute, under the interpreter: judged by the kit's bound, at small chunks, so
that small layers have full chunks, tails, and several of both. Started by test_interpreter.py.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import Interpreted
from steps import check_grad_scaler
from triton.runtime import interpreter

from setadam_conformance.cases import strategies
from setadam_conformance.judging.bench import Bench
from setadam_conformance.running.backends import Source
from setadam_conformance.running.plan import PROFILES, plan
from setadam_conformance.running.runner import run_cell
from setadam_core.parts import Parts, combine
from setadam_torch import SETAdam
from setadam_torch.paths.triton import kept, launches, tables

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, where a GPU is silent
DTYPES = ["float64", "float32", "bfloat16", "float16"]


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 32 coordinates, 16 at a time."""
    monkeypatch.setattr(launches, "LANES", 16)
    monkeypatch.setattr(tables, "_CHUNK", 32)
    kept.forget()
    yield
    kept.forget()


@pytest.fixture(scope="module")
def small_chunks_everywhere():
    """The same, for all examples of a Hypothesis test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launches, "LANES", 16)
        patch.setattr(tables, "_CHUNK", 32)
        kept.forget()
        yield
    kept.forget()


@pytest.fixture
def counted(monkeypatch):
    """The names of the kernels launched."""
    names = []
    original = interpreter.InterpretedFunction.run

    def counted(self, *args, **kwargs):
        names.append(self.fn.__name__)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(interpreter.InterpretedFunction, "run", counted)
    return names


def layers(*shapes, dtype=torch.float32, seed=0, **options):
    """A group's options, and params, grads, moments and steps of layers that have taken steps before."""
    torch.manual_seed(seed)
    params = [torch.randn(s, dtype=torch.float64).to(dtype) for s in shapes]
    grads = [torch.randn_like(p) for p in params]
    compute = dtype if dtype in (torch.float64, torch.complex64) else torch.float32
    ms = [torch.randn_like(p, dtype=compute) for p in params]
    vs = [torch.rand_like(p, dtype=compute) for p in params]
    steps = [torch.tensor(6.0 + i, dtype=torch.float64) for i in range(len(params))]
    return SETAdam(params, **options).param_groups[0], [params, grads, ms, vs, steps]


def copies(columns):
    return [[x.clone() for x in xs] for xs in columns]


def bits(columns):
    return [[x.detach().contiguous().view(-1).view(torch.uint8).tolist() for x in xs] for xs in columns]


def test_the_conformance_kit():
    source = Source(Interpreted.name, "torch", "interpreted:Interpreted")
    cells = [run_cell(cell) for cell in plan({source: Interpreted.capabilities}, profile=PROFILES["default"])]
    wrong = [cell for cell in cells if cell.status != "pass"]
    assert [(x.property, x.dtype, x.failure.message if x.failure else x.reason) for x in wrong] == []
    assert {cell.dtype for cell in cells} == set(DTYPES)


SHAPES = st.sampled_from([(1,), (), (31,), (32,), (33,), (64,), (95,), (8, 16), (130,), (0,)])


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=8)
@given(data=st.data())
def test_layers_of_several_chunks(small_chunks_everywhere, dtype, data):
    """Full chunks take 16-byte words and no mask; tails do not; a layer may have many, one, or none."""
    adapter = Interpreted()
    case = data.draw(strategies.cases(adapter.capabilities, dtype, shape=SHAPES))
    Bench(adapter, dtype).conform(case)


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gamma_is_free_of_scale_over_chunks(small_chunks, dtype, scale):
    """v of 1e-36 … 1e36 or, in double, of 1e-288 … 1e288: squares would be 0 or ∞."""
    scale = scale**8 if dtype == torch.float64 else scale
    group, columns = layers((100,), (33,), dtype=dtype, betas=(0.9, 0.5), eps=1e-30 if scale == 1 else 1e-37)
    columns[3] = [torch.zeros_like(v) for v in columns[3]]
    one = launches.moments(group, copies(columns))
    gamma, _ = combine(Parts(*(x[None] for x in one)), torch.tensor([100.0, 33.0]), 2)
    columns[1] = [scale * g for g in columns[1]]
    other = launches.moments(group, columns)
    scaled, _ = combine(Parts(*(x[None] for x in other)), torch.tensor([100.0, 33.0]), 2)
    torch.testing.assert_close(scaled, gamma, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_unaligned_tensors_are_as_good_as_aligned_ones(small_chunks, dtype):
    group, columns = layers((100,), (70,), dtype=dtype, weight_decay=0.1)
    shifted = [[torch.cat([x[:1], x])[1:] if x.ndim else x.clone() for x in xs] for xs in columns]
    assert any(x.data_ptr() % 16 for xs in shifted[:4] for x in xs)
    launches.step_layers(group, columns)
    launches.step_layers(group, shifted)
    assert bits(columns) == bits(shifted)


@pytest.mark.parametrize("shifts", [(1, 0, 0, 0), (0, 3, 0, 0), (2, 2, 2, 2), (1, 1, 2, 2), (0, 0, 1, 2), (3, 1, 2, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_tensor_may_begin_anywhere(small_chunks, dtype, shifts):
    """θ, g, m and v, each moved by some coordinates from a 16-byte word. Few coordinates, and chunks with two edges."""
    sizes = [1, 2, 3, 4, 5, 7, 33, 70, 100]
    group, columns = layers(*[(n,) for n in sizes], dtype=dtype, weight_decay=0.1, decoupled_weight_decay=True)
    moved = copies(columns)
    for i, shift in enumerate(shifts):
        moved[i] = [torch.cat([x.new_zeros(shift), x])[shift:] for x in columns[i]]
    launches.step_layers(group, columns)
    launches.step_layers(group, moved)
    assert bits(columns) == bits(moved)


def test_neighbours_in_memory_are_not_written(small_chunks):
    """Layers of 37 coordinates, one after the other in one tensor, of which only every second is updated."""
    group, columns = layers((7, 37))
    before = copies(columns)
    inner = [[x[k] for k in range(1, 7, 2)] for x in (xs[0] for xs in columns[:4])]
    launches.step_layers(group, [*inner, [columns[4][0].clone() for _ in range(3)]])
    for xs, ys in zip(columns[:4], before, strict=False):
        assert torch.equal(xs[0][::2], ys[0][::2])
    assert not torch.equal(columns[0][0][1::2], before[0][0][1::2])


@pytest.mark.parametrize("permuted", [lambda x: x.contiguous(memory_format=torch.channels_last), lambda x: x.mT])
def test_dense_tensors_in_another_order_of_axes_are_not_copied(permuted):
    """They are contiguous in the order of memory, in which the kernels take them, in words."""
    group, columns = layers((4, 3, 5, 8))
    columns = [[permuted(x) if x.ndim else x for x in xs] for xs in columns]
    assert not any(xs[0].is_contiguous() for xs in columns[:4])
    with launches._contiguous(group, launches.Columns(*columns), writes_grads=True) as (dense, _):
        assert [[x.data_ptr() for x in xs] for xs in dense[:4]] == [[x.data_ptr() for x in xs] for xs in columns[:4]]


@pytest.mark.parametrize("count", [1, 40])
def test_two_launches_for_any_number_of_layers(counted, count):
    group, columns = layers(*[(3,)] * count)
    launches.step_layers(group, columns)
    assert counted == ["moments_kernel", "descend_kernel"]
    launches.moments(group, columns)
    launches.descend(group, columns, *torch.ones(2, count, dtype=torch.float64))
    assert counted[2:] == ["moments_kernel", "coefficients_kernel", "descend_kernel"]


def test_each_dtype_has_its_launches(counted):
    group, columns = layers((3,), (4,))
    wide, others = layers((5,), dtype=torch.float64)
    mixed = [a[:1] + b + a[1:] for a, b in zip(columns, others, strict=True)]
    expected, alone = copies(columns), copies(others)
    launches.step_layers(group, mixed)
    assert len(counted) == 4
    launches.step_layers(group, expected)
    launches.step_layers(wide, alone)
    assert bits(mixed) == bits([a[:1] + b + a[1:] for a, b in zip(expected, alone, strict=True)])


def test_nothing_to_do(counted):
    group, _ = layers((3,))
    launches.step_layers(group, [[], [], [], [], []])
    assert counted == []


def test_the_order_in_which_chunks_run_does_not_matter(small_chunks, monkeypatch):
    group, columns = layers((150,), (33,), (5,))
    backwards = copies(columns)
    launches.step_layers(group, columns)
    place = interpreter.InterpreterBuilder.set_grid_idx
    monkeypatch.setattr(
        interpreter.InterpreterBuilder,
        "set_grid_idx",
        lambda self, x, y, z: place(self, self.grid_dim[0] - 1 - x, y, z),
    )
    launches.step_layers(group, backwards)
    assert bits(columns) == bits(backwards)


def test_each_tensor_has_its_own_step_count():
    """Two layers in one call, at steps 7 and 8, are as two calls; the counts are on the device and count."""
    group, columns = layers((20,), (30,))
    apart = copies(columns)
    launches.step_layers(group, columns)
    for i in range(2):
        launches.step_layers(group, [xs[i : i + 1] for xs in apart])
    assert [t.item() for t in columns[4]] == [7, 8]
    assert bits(columns) == bits(apart)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("axes", [None, (-1,)])
def test_empty_tensors_count_their_steps(shape, axes):
    """Alone and among others; a stack has as many layers as there are places, none or with nothing in them."""
    for shapes in ([(2, 3), shape], [shape]):
        group, columns = layers(*shapes, layer_axes=axes)
        launches.step_layers(group, columns)
        assert columns[4][-1].item() == 6 + len(shapes)
        assert columns[0][0].isfinite().all()
        launches.step_layers(group, columns, found_inf=torch.ones(1))
        parts = launches.moments(group, columns, found_inf=torch.zeros(1))
        assert columns[4][-1].item() == 7 + len(shapes)
        expected = sum(1 if axes is None else math.prod(s[:-1]) for s in shapes)
        assert parts.high.shape == (expected,)
        launches.descend(group, columns, *torch.ones(2, expected, dtype=torch.float64))


@pytest.mark.parametrize("axes", [(1, 2), (2,), (), (0, 2), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_layer_axes(small_chunks, axes, dtype):
    """Each slice is as a tensor of its own."""
    group, columns = layers((2, 3, 7) if axes in ((), (0,)) else (3, 5, 14), dtype=dtype, layer_axes=axes)
    alone, _ = layers((1,), dtype=dtype)
    others = [axis for axis in range(3) if axis not in axes]
    slices = [[x.clone() for x in columns[i][0].permute(*others, *axes).flatten(0, len(others) - 1)] for i in range(4)]
    slices.append([columns[4][0].clone() for _ in slices[0]])
    launches.step_layers(group, columns)
    launches.step_layers(alone, slices)
    for xs, ys in zip(columns[:4], slices, strict=False):
        assert torch.equal(xs[0].permute(*others, *axes).flatten(0, len(others) - 1), torch.stack(ys))
    assert columns[4][0] == 7


@pytest.mark.parametrize(
    "lay_out",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
        lambda x: x.repeat_interleave(2, dim=3)[..., ::2],
    ],
)
def test_memory_layouts(lay_out):
    """Parameters, or gradients alone, that do not lie in memory in the order of their axes."""
    group, columns = layers((2, 3, 4, 5))
    for role in (0, 1, 2, 3, None):
        laid_out = [[lay_out(x.clone()) if x.ndim and role in (i, None) else x.clone() for x in xs]
                    for i, xs in enumerate(columns)]  # fmt: skip
        pointers = [[x.data_ptr() for x in xs] for xs in laid_out]
        plain = copies(columns)
        launches.step_layers(group, plain)
        launches.step_layers(group, laid_out)
        # The sums run in the order of memory, so γ may differ by roundings in double.
        for xs, ys in zip(laid_out, plain, strict=True):
            torch.testing.assert_close(xs, ys, rtol=1e-6, atol=1e-9)
        assert pointers == [[x.data_ptr() for x in xs] for xs in laid_out]


def test_gradients_are_not_written():
    for options in ({"maximize": True, "weight_decay": 0.1}, {"layer_axes": (0,)}):
        group, columns = layers((3, 4), **options)
        before = columns[1][0].clone()
        launches.step_layers(group, columns)
        assert torch.equal(columns[1][0], before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"maximize": True, "layer_axes": (0,)}])
def test_grad_scale_unscales_gradients_in_place(dtype, options):
    """As GradScaler.unscale_ and then a step: a power of two is exact."""
    group, columns = layers((5, 6), (4, 3), dtype=dtype, **options)
    scaled = copies(columns)
    scaled[1] = [8 * g for g in scaled[1]]
    launches.step_layers(group, columns)
    launches.step_layers(group, scaled, grad_scale=torch.tensor(8.0), found_inf=torch.zeros(()))
    assert bits(columns) == bits(scaled)


def test_grad_scaler():
    check_grad_scaler(*layers((5, 6), (7,)))


@pytest.mark.parametrize("options", [{}, {"layer_axes": (0,)}])
def test_found_inf_changes_nothing(options):
    group, columns = layers((5, 6), (0, 2), **options)
    columns[1][0][0, 0] = math.inf
    before = bits(columns)
    found, scale = torch.ones(1), torch.tensor(8.0)
    launches.step_layers(group, columns, grad_scale=scale, found_inf=found)
    launches.moments(group, columns, grad_scale=scale, found_inf=found)
    launches.descend(group, columns, *torch.ones(2, 8, dtype=torch.float64), found_inf=found)
    assert bits(columns) == before


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("power", [2.0, 0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bad_gradient_makes_its_whole_layer_nan_and_no_other(small_chunks, dtype, power, bad):
    group, columns = layers((70,), (40,), dtype=dtype, cos_power=power)
    columns[3] = [torch.zeros_like(v) for v in columns[3]]
    columns[1][0].zero_()
    columns[1][0][37] = bad
    launches.step_layers(group, columns)
    assert columns[0][0].isnan().all()
    assert columns[0][1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lr_may_be_a_tensor(dtype):
    """Under the interpreter the device is the CPU; float64, so that it says the same as the number."""
    group, columns = layers((9,), weight_decay=0.1, decoupled_weight_decay=True, dtype=dtype, lr=3e-3)
    other = copies(columns)
    launches.step_layers(group, columns)
    launches.step_layers({**group, "lr": torch.tensor(3e-3, dtype=torch.float64)}, other)
    assert bits(columns) == bits(other)


def test_autograd_notices_that_a_parameter_has_changed():
    group, columns = layers((3,))
    weight = columns[0][0].requires_grad_()
    loss = (weight * weight).sum()
    with torch.no_grad():
        launches.step_layers(group, columns)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("power", [2.0, 0.0, 1.0])
def test_layers_spread_over_processes(small_chunks, power):
    """The two phases, with `combine` over the parts of a layer in between, as of the whole layer."""
    group, columns = layers((100,), (40,), cos_power=power)
    halves = [[[x[:40].clone(), x[40:].clone()] if x.ndim else [x.clone(), x.clone()] for x in xs] for xs in columns]
    ranks = [[[layer[rank] for layer in xs] for xs in halves] for rank in range(2)]  # the second has 60 and 0
    parts = [launches.moments(group, rank) for rank in ranks]
    together = Parts(*(torch.stack(xs) for xs in zip(*parts, strict=True)))
    gammas, lows = combine(together, torch.tensor([100.0, 40.0]), power)
    for rank in ranks:
        launches.descend(group, rank, gammas, lows)
    launches.step_layers(group, columns)
    for i in range(2):
        for j in range(4):
            joined = torch.cat([rank[j][i] for rank in ranks])
            torch.testing.assert_close(joined, columns[j][i], rtol=1e-6, atol=0)
    assert all(rank[4][0] == 7 for rank in ranks)


def test_parts_of_a_layer_without_coordinates():
    group, columns = layers((0,))
    assert [x.item() for x in launches.moments(group, columns)] == [0, 0, 0, math.inf]


def test_one_call_of_a_phase_is_for_one_dtype():
    group, columns = layers((3,))
    _, others = layers((3,), dtype=torch.float64)
    with pytest.raises(ValueError, match="one device and dtype"):
        launches.moments(group, [a + b for a, b in zip(columns, others, strict=True)])


@pytest.mark.parametrize(
    ("column", "wrong", "words"),
    [
        (4, torch.tensor(6.0), "step 1 must have dtype torch.float64, got torch.float32"),
        (4, torch.empty((), dtype=torch.float64, device="meta"), "step 1 must be on cpu, got meta"),
        (2, torch.zeros(6), "exp_avg 1 must have 7 coordinates, got 6"),
        (1, torch.zeros(7, dtype=torch.float64), "1 must have dtype torch.float32, got torch.float64"),
        (3, torch.zeros(7, dtype=torch.float64), "1 must have dtype torch.float32, got torch.float64"),
    ],
)
def test_memory_of_another_kind_is_refused(column, wrong, words):
    group, columns = layers((3,), (7,))
    before = bits(columns)
    spoilt = [list(xs) for xs in columns]
    spoilt[column][1] = wrong
    with pytest.raises(ValueError, match=words):
        launches.step_layers(group, spoilt)
    assert bits(columns) == before


@pytest.fixture
def capturing(monkeypatch):
    """A function that begins and ends what the launches take for the capture of a graph."""
    return lambda on: monkeypatch.setattr(tables, "_capturing", lambda device: on)


class TestPlans:
    @pytest.fixture(autouse=True)
    def made(self, monkeypatch):
        """How many plans were made."""
        kept.forget()
        count = []
        make = tables._make
        monkeypatch.setattr(tables, "_make", lambda *args: count.append(1) or make(*args))
        yield count
        kept.forget()

    def test_the_same_tensors_share_a_plan(self, made):
        group, columns = layers((3,), (7,))
        for _ in range(3):
            launches.step_layers(group, columns)
        assert len(made) == 1
        launches.step_layers({**group, "lr": 0.5, "maximize": True}, columns)
        assert len(made) == 1
        fresh = [g.clone() for g in columns[1]]
        launches.step_layers(group, [columns[0], fresh, *columns[2:]])
        assert len(made) == 2

    @pytest.mark.parametrize("room", [2, 0])
    def test_plans_are_kept_up_to_a_number_of_bytes(self, made, monkeypatch, room):
        """Those used last; the one in use in any case."""
        sets = [layers((3,)) for _ in range(3)]
        launches.step_layers(*sets[0])
        (_, size), *_ = kept._plans.values()
        assert size == 8 * (8 + 1 + 4)
        monkeypatch.setattr(kept, "PLANS_BYTES", room * size)
        for i in (1, 0, 2, 0, 1):
            launches.step_layers(*sets[i])
        assert len(made) == (4 if room else 6)  # the second made twice
        assert len(kept._plans) == max(room, 1)

    def test_scratch_memory_is_shared_and_grows(self, monkeypatch):
        """By all plans of a stream, not by those of another; chunks of 32 coordinates."""
        monkeypatch.setattr(tables, "_CHUNK", 32)
        sets = [layers((100,), (5,)), layers((3,), dtype=torch.float64), layers((70,))]
        for group, columns in sets:
            launches.step_layers(group, columns)
        assert len(kept._plans) == 3
        (only,) = kept._scratch.values()
        assert (only.partials.numel(), only.arrived.tolist()) == (4 * 5, [0, 0])
        launches.step_layers(*layers((320,)))
        (grown,) = kept._scratch.values()
        assert (grown.partials.numel(), grown.arrived.tolist()) == (4 * 10, [0, 0, 0])
        monkeypatch.setattr(tables, "_stream", lambda device: 7)
        launches.step_layers(*sets[0])
        assert [stream for _, stream in kept._scratch] == [0, 7]

    def test_a_graph_keeps_what_it_reads(self, made, capturing):
        """A plan made during a capture is filled in by replays alone, so nobody else may find it."""
        group, columns = layers((3,))
        fresh = [g.clone() for g in columns[1]]
        launches.step_layers(group, columns)
        capturing(True)
        launches.step_layers(group, columns)
        launches.step_layers(group, [columns[0], fresh, *columns[2:]])
        assert (len(made), len(kept._plans), len(kept._of_graphs)) == (2, 1, 1)
        assert kept._of_graphs[0][1] is kept.find_plan(next(iter(kept._plans)))
        capturing(False)
        launches.step_layers(group, [columns[0], fresh, *columns[2:]])
        assert len(made) == 3

    def test_scratch_memory_of_a_capture_is_the_graphs(self, capturing):
        group, columns = layers((3,))
        capturing(True)
        launches.step_layers(group, columns)
        assert kept._scratch == kept._plans == {}

    def test_what_a_graph_read_is_released_with_its_parameters(self, capturing):
        sets = [layers((3,), (4,)) for _ in range(3)]
        for group, columns in sets:
            launches.step_layers(group, columns)
            capturing(True)
            launches.step_layers(group, [[x.detach() for x in xs] for xs in columns])  # tensors that die at once
            capturing(False)
        assert len(kept._of_graphs) == 3
        del sets[1]
        capturing(True)
        launches.step_layers(*sets[0])
        assert len(kept._of_graphs) == 3  # the new one in its place

    def test_addresses_and_offsets_need_64_bits(self):
        """A stack of three layers of 2³¹ + 1 coordinates, far up in memory."""
        size = 2**31 + 1
        addresses = np.array([[2**47], [2**46], [2**45], [2**44], [8]])
        place = tables.Place(torch.device("cpu"), torch.bfloat16, addresses, np.array([3 * size]), np.array([3]))
        table, owner = tables.lay_out(place, 1 << 14)
        assert table.tolist() == [
            [2**47, 2**47 + 2 * size, 2**47 + 4 * size],
            [2**46, 2**46 + 2 * size, 2**46 + 4 * size],
            [2**45, 2**45 + 4 * size, 2**45 + 8 * size],
            [2**44, 2**44 + 4 * size, 2**44 + 8 * size],
            [8, 8, 8],
            [1, 0, 0],
            [size] * 3,
            [0, 2**17 + 1, 2**18 + 2],
        ]
        assert np.bincount(owner).tolist() == [2**17 + 1] * 3

    def test_pinned_memory_set_aside_is_handed_out_once(self, monkeypatch):
        monkeypatch.setattr(kept, "_set_aside", [torch.arange(10)])
        assert [kept.pinned(n, capturing=True).tolist() for n in (4, 6)] == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
