"""SETAdam's usual step on a CUDA device, with the CPU and Triton's interpreter in the device's place: the same bits as
in the general way, and each tensor looked at once. Started by test_interpreter.py.
"""

import math
from importlib.util import find_spec

import interpreted  # noqa: F401  # sets the interpreter right
import pytest
import torch

from setadam_torch import SETAdam
from setadam_torch.checks import in_bulk, memory, params
from setadam_torch.paths.cpu_kernel import at_once as on_cpu
from setadam_torch.paths.triton import at_once, kept, launches
from setadam_torch.paths.triton.path import Triton

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, where a GPU is silent
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(), (1,), (7,), (3, 1, 5), (0,), (64, 65)]
LOOPS = [pytest.param("compiled", marks=pytest.mark.skipif(find_spec("numba") is None, reason="needs Numba")), "Python"]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """The path takes tensors on the CPU, where nothing else takes them before, and reads no step count."""

    def why_not(cls, group, layer):
        return None if group["fused"] and memory.hold_values(layer) else "not asked for, or no memory"

    monkeypatch.setattr(Triton, "why_not", classmethod(why_not))
    monkeypatch.setattr(on_cpu, "step", lambda *_: False)
    for module in (in_bulk, params):
        monkeypatch.setattr(module, "can_be_read", lambda counts: False)


@pytest.fixture(params=LOOPS)
def loop(request, monkeypatch):
    """Tensors are described by the compiled loop, or without Numba."""
    if request.param == "Python":
        monkeypatch.setattr(at_once, "has_numba", lambda: False)
    return request.param


def made(dtype=torch.float32, shapes=SHAPES, **options):
    """An optimizer after one step in the general way, with its next gradients."""
    torch.manual_seed(0)
    layers = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    optimizer = SETAdam(layers, fused=True, **options)
    for _ in range(2):
        for p in layers:
            p.grad = torch.randn(p.shape).to(dtype)
        if not optimizer.state:
            optimizer.step()
    return layers, optimizer


def everything(layers, optimizer):
    return [*layers, *(p.grad for p in layers), *(x for p in layers for x in optimizer.state[p].values())]


def taken(optimizer, *scaled):
    return at_once.step(optimizer.param_groups, optimizer.state, *scaled)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True, "capturable": True}], ids=str)
def test_the_same_bits_as_in_the_general_way(loop, dtype, options, monkeypatch):
    results = []
    for general in (False, True):
        layers, optimizer = made(dtype, **options)
        with monkeypatch.context() as patch:
            if general:
                patch.setattr(at_once, "step", lambda *_: False)
            else:  # the step under test goes no other way
                patch.setattr(launches, "step_layers", None)
            optimizer.step()
        results.append(everything(layers, optimizer))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_scaler_is_obeyed(loop):
    layers, optimizer = made()
    twins, twin = made()
    for p in layers:
        p.grad = 8 * p.grad
    assert taken(optimizer, torch.tensor(8.0), torch.zeros(()))
    twin.step()
    assert all(torch.equal(a, b) for a, b in zip(everything(layers, optimizer), everything(twins, twin), strict=True))
    before = [x.clone() for x in everything(layers, optimizer)]
    layers[2].grad[0] = before[len(layers) + 2][0] = math.inf
    assert taken(optimizer, torch.tensor(8.0), torch.ones(()))
    assert all(torch.equal(a, b) for a, b in zip(everything(layers, optimizer), before, strict=True))


def test_autograd_notices_and_a_parameter_without_gradient_is_left_alone(loop):
    layers, optimizer = made(shapes=[(3,), (4,)])
    versions = [p._version for p in layers]
    layers[1].grad = None
    before = layers[1].detach().clone()
    assert taken(optimizer)
    assert [p._version for p in layers] == [versions[0] + 1, versions[1]]
    assert torch.equal(layers[1], before)


def with_gaps(p, state):
    p.grad = torch.zeros(14)[::2]


def lazily_negative(p, state):
    state["exp_avg"] = torch._neg_view(state["exp_avg"])


def of_another_dtype(p, state):
    state["exp_avg_sq"] = state["exp_avg_sq"].double()


def of_another_shape(p, state):
    state["exp_avg"] = state["exp_avg"].reshape(7, 1)


def counted_in_float32(p, state):
    state["step"] = state["step"].float()


def without_memory(p, state):
    p.grad.untyped_storage().resize_(0)


def elsewhere(p, state):
    state["exp_avg"] = state["exp_avg"].to("meta")


def new(p, state):
    state.clear()


UNUSUAL = [
    with_gaps,
    lazily_negative,
    of_another_dtype,
    of_another_shape,
    counted_in_float32,
    without_memory,
    elsewhere,
    new,
]


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("unusual", UNUSUAL, ids=lambda f: f.__name__)
def test_an_unusual_tensor_is_left_to_the_general_way(loop, unusual, which):
    layers, optimizer = made(shapes=[(7,)] * 3)
    before = [p.detach().clone() for p in layers]
    unusual(layers[which], optimizer.state[layers[which]])
    assert not taken(optimizer)
    assert all(torch.equal(p, old) for p, old in zip(layers, before, strict=True))


def test_options_for_which_it_is_not(loop):
    assert not taken(made(shapes=[(3, 4)], layer_axes=(0,))[1])
    _, optimizer = made(shapes=[(3,)])
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "fused": False})
    assert not taken(optimizer)
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):
        taken(optimizer)


def test_without_numba_each_address_is_read_once(monkeypatch):
    monkeypatch.setattr(at_once, "has_numba", lambda: False)
    layers, optimizer = made()
    addresses, read = torch.Tensor.data_ptr, []
    monkeypatch.setattr(torch.Tensor, "data_ptr", lambda x: read.append(x) or addresses(x))
    optimizer.step()
    reads = [sum(x is y for y in read) for x in everything(layers, optimizer)]
    first = [i for i, x in enumerate(everything(layers, optimizer)) if x is layers[0]]
    assert [n for i, n in enumerate(reads) if i not in first] == [1] * (len(reads) - 1)
    assert reads[0] == 2  # the path asks of the first parameter whether it has memory


def test_new_gradients_take_a_new_plan_and_no_other_look(loop, monkeypatch):
    kept.forget()
    layers, optimizer = made(shapes=[(3,), (4,)])
    assert taken(optimizer)
    plans = len(kept._plans)
    room = torch.ones(1 << 20)  # where no gradient has been: clones may come to lie where one was in an earlier plan
    for i, p in enumerate(layers):
        p.grad = room[1024 * (i + 1) :][: p.numel()].copy_(p.grad)
    assert taken(optimizer)
    assert len(kept._plans) == plans + 1
    assert taken(optimizer)
    assert len(kept._plans) == plans + 1
