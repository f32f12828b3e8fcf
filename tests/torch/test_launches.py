"""torch's own operations on a device: no more of them for a hundred layers than for ten. Counted on the CPU, where they
are the same but for the reductions.
"""

import pytest
import torch
from launch_counts import launches_of

from setadam_core.parts import Parts, combine
from setadam_torch import SETAdam
from setadam_torch.checks.tensors import compute_dtype, layer_of
from setadam_torch.paths import foreach
from setadam_torch.paths.columns import Columns
from setadam_torch.paths.foreach import Foreach
from setadam_torch.paths.parts import parts_of

SHAPES = [(3, 4), (7,), (), (2, 3, 2, 2), (130,)]
DECAYS = {"weight_decay": 0.1, "maximize": True}, {"weight_decay": 0.1, "decoupled_weight_decay": True}


@pytest.fixture(autouse=True)
def as_on_a_device(monkeypatch):
    monkeypatch.setattr(foreach, "_lists_are_faster", lambda vs, layers: foreach._are_whole(vs, layers))


def layers(count, dtype):
    """Of several shapes, sizes, orders in memory and step counts."""
    params = [torch.rand(SHAPES[i % len(SHAPES)]).to(dtype) for i in range(count)]
    params = [p.to(memory_format=torch.channels_last) if p.ndim == 4 else p for p in params]
    grads = [torch.rand_like(p) for p in params]
    ms, vs = ([torch.rand_like(p, dtype=compute_dtype(p)) for p in params] for _ in "mv")
    return Columns(params, grads, ms, vs, [torch.tensor(float(i % 3), dtype=torch.float64) for i in range(count)])


def a_step(count, dtype=torch.float32, **options):
    group, columns = SETAdam([torch.zeros(3)], **options).param_groups[0], layers(count, dtype)
    return launches_of(lambda: Foreach.step(group, columns))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{}, {"capturable": True}, {"tau": 0}, {"eps_inside_sqrt": False}, *DECAYS], ids=str
)
def test_as_many_launches_for_a_hundred_layers_as_for_ten(dtype, options):
    assert a_step(100, dtype, **options) == a_step(10, dtype, **options)


def test_as_many_launches_where_the_stepsize_is_on_the_device(monkeypatch):
    monkeypatch.setattr(foreach, "_number_if_known", lambda lr: lr)  # which it would be here
    lr = torch.tensor(1e-3)
    assert a_step(100, lr=lr, weight_decay=0.1) == a_step(10, lr=lr, weight_decay=0.1)


def test_stacks_have_launches_of_their_own():
    """What the count would show: two launches for each parameter that has layers along an axis."""
    few, many = (sum(a_step(5 * n, layer_axes=()).values()) for n in (1, 2))
    assert many > few


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_reductions_by_lists_are_those_of_each_layer(dtype):
    vs = layers(10, dtype).exp_avg_sqs
    vs[2].zero_()
    vs[3][0, 0, 0, 0] = torch.inf
    each, sizes = [layer_of(v, None) for v in vs], torch.tensor([v.numel() for v in vs])
    one_by_one = torch.cat([parts_of(v, layer) for v, layer in zip(vs, each, strict=True)], dim=1)
    lists, singles = (
        combine(Parts(*(x[None] for x in parts)), sizes, 2)
        for parts in (foreach._parts(vs, each, 2), Parts(*one_by_one))
    )
    # Σv and Σv² of at most 130 terms, each off by a rounding for each term and one for v / max v: γ by two of each.
    torch.testing.assert_close(lists[0], singles[0], rtol=4 * 131 * torch.finfo(dtype).eps / 2, atol=0, equal_nan=True)
    assert torch.equal(lists[1], singles[1])
    assert lists[0][3].isnan()
