"""Which implementation takes the two phases of a sharded step."""

import pytest

torch = pytest.importorskip("torch")
from setadam_numpy import kernel  # noqa: E402
from setadam_torch import SETAdam  # noqa: E402
from setadam_torch._phases import Foreach, OnCPU, phases  # noqa: E402

COMPILED = Foreach if kernel.why_not() else OnCPU


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, COMPILED),
        ({"foreach": True}, Foreach),
        ({"foreach": False}, Foreach),
        ({"fused": False}, Foreach),
        ({"capturable": True}, Foreach),
        ({"layer_axes": (1,)}, COMPILED),
        ({"layer_axes": (0,)}, Foreach),  # its layers are not one after the other in memory
    ],
)
def test_the_path_asked_for(options, expected):
    x = torch.ones(3, 4)
    (group,) = SETAdam([torch.nn.Parameter(x)], **options).param_groups
    assert type(phases(group, [[x], [x], [x], [x], [torch.zeros(())]])) is expected


def test_a_gradient_with_gaps_goes_by_foreach():
    x, gaps = torch.ones(3, 4), torch.ones(4, 3).T
    (group,) = SETAdam([torch.nn.Parameter(x)]).param_groups
    assert type(phases(group, [[x, x], [x, gaps], [x, x], [x, x], [torch.zeros(())] * 2])) is Foreach
