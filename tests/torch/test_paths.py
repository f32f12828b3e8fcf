"""Which path takes a layer, in a whole step and in a sharded one, and what it takes to add a path."""

import pytest

torch = pytest.importorskip("torch")
from setadam_numpy import kernel  # noqa: E402
from setadam_torch import SETAdam  # noqa: E402
from setadam_torch.paths import choice  # noqa: E402
from setadam_torch.paths.blocks import Blocks  # noqa: E402
from setadam_torch.paths.columns import Columns, columns_of  # noqa: E402
from setadam_torch.paths.cpu_kernel.path import CPUKernel  # noqa: E402
from setadam_torch.paths.foreach import Foreach  # noqa: E402
from setadam_torch.paths.protocol import two_passes  # noqa: E402
from setadam_torch.paths.single import Single  # noqa: E402

COMPILED = Blocks if kernel.why_not() else CPUKernel


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, COMPILED),
        ({"foreach": True}, Blocks),
        ({"foreach": False}, Single),
        ({"differentiable": True}, Single),
        ({"fused": False}, Blocks),
        ({"capturable": True}, Foreach),
        ({"layer_axes": (1,)}, Foreach if kernel.why_not() else CPUKernel),
        ({"foreach": True, "layer_axes": (1,)}, Foreach),
        ({"layer_axes": (0,)}, Foreach),  # its layers are not one after the other in memory
    ],
)
def test_the_path_asked_for(options, expected):
    x = torch.ones(3, 4)
    (group,) = SETAdam([torch.nn.Parameter(x)], **options).param_groups
    assert list(choice.by_path(group, Columns([x], [x], [x], [x], [torch.zeros(())]))) == [expected]


def test_layers_of_one_group_go_by_several_paths():
    x, gaps = torch.ones(3, 4), torch.ones(4, 3).T
    (group,) = SETAdam([torch.nn.Parameter(x)]).param_groups
    found = choice.by_path(group, Columns([x, x], [x, gaps], [x, x], [x, x], [torch.zeros(())] * 2))
    assert {path: len(columns.params) for path, columns in found.items()} == {COMPILED: 1, Foreach: 1}


def columns(dtype, shapes=((40, 50), (7,), (0, 3), (1,), (7,))):
    torch.manual_seed(0)

    def row(shape):
        theta, g, m = (torch.randn(shape, dtype=dtype) for _ in range(3))
        return theta, g, m, torch.rand(shape, dtype=dtype), torch.tensor(6.0, dtype=torch.float64)

    return columns_of([row(shape) for shape in shapes])


@pytest.mark.parametrize("path", [p for p in choice.PATHS if p.is_kernel_for != "cuda"], ids=lambda path: path.name)
@pytest.mark.parametrize("layer_axes", [None, (1,)])
def test_a_whole_step_and_two_passes_agree(path, layer_axes):
    """In float64, where the orders of sums leave some ulps. The kit holds both to the bound in all dtypes."""
    if path.missing(torch.float64) or (path is Blocks and layer_axes):
        pytest.skip("the path does not serve this")
    shapes = ((40, 50), (7, 3), (0, 3), (4, 1), (7, 3)) if layer_axes else ((40, 50), (7,), (0, 3), (1,), (7,))
    group = SETAdam([torch.nn.Parameter(torch.ones(2, 2))], weight_decay=0.1, layer_axes=layer_axes).param_groups[0]
    one, other = columns(torch.float64, shapes), columns(torch.float64, shapes)
    with torch.no_grad():
        path.step(group, one)
        two_passes(path, group, other)
    for xs, ys in zip(one, other, strict=True):
        for x, y in zip(xs, ys, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-13, atol=1e-15)
    assert all(t == 7 for t in one.steps + other.steps)


def test_a_new_path_is_a_class_and_a_line(monkeypatch):
    """As CONTRIBUTING.md says: foreach for tensors that are not contiguous, before all others."""
    begun = []

    class Strided(Foreach):
        name = "strided"

        @classmethod
        def why_not(cls, group, layer):
            return "it is contiguous" if layer[0].is_contiguous() else super().why_not(group, layer)

        def moments(self):
            begun.append(len(self.columns.params))
            return super().moments()

    monkeypatch.setattr(choice, "PATHS", (Strided, *choice.PATHS))
    params = [torch.nn.Parameter(x) for x in (torch.ones(3, 4), torch.ones(4, 3).T)]
    optimizer = SETAdam(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert begun == [1]
    assert torch.equal(params[0], params[1])


@pytest.mark.parametrize("layer_axes", [None, ()])
def test_scalars_and_single_coordinates_beside_other_layers(layer_axes):
    """γ of a layer of one coordinate is exactly 1."""
    twins = []
    for foreach in (True, False):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape)) for shape in ((), (5, 3), (1, 1))]
        optimizer = SETAdam(params, lr=0.1, foreach=foreach, layer_axes=layer_axes)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn_like(p)
            optimizer.step()
        twins.append(params)
    # γ, in double or float32: at most 20u of it, which lr · 3 steps · m/w < 3 carry into θ
    torch.testing.assert_close(*twins, rtol=0, atol=0.1 * 3 * 3 * 20 * 2**-24)
