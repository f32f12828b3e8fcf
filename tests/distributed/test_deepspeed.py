"""What DeepSpeed makes of an optimizer's parameters is refused, without DeepSpeed."""

import sys
import types

import pytest

torch = pytest.importorskip("torch")
from setadam_torch import SETAdam  # noqa: E402


@pytest.mark.parametrize(("stage", "wrapper"), [(1, "ZeRO 1 or 2"), (3, "ZeRO 3")])
def test_deepspeeds_partitions_are_refused(monkeypatch, stage, wrapper):
    """What DeepSpeed does to a client's optimizer: flat float32 slices in place of its parameters."""
    monkeypatch.setitem(sys.modules, "deepspeed", types.ModuleType("deepspeed"))
    net = torch.nn.Linear(3, 2)
    optimizer = SETAdam(net.parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in net.parameters()])[:4].clone().float().detach()
    flat.requires_grad = True
    if stage == 3:
        flat.ds_id = "0_1"
    optimizer.param_groups[0]["params"] = [flat]
    flat.grad = torch.ones(4)
    with pytest.raises(
        TypeError, match=rf"parameter 0 of group 0: it is flattened by DeepSpeed's {wrapper}.*fully_shard"
    ):
        optimizer.step()
    assert torch.equal(flat.detach()[:3], net.weight.detach().reshape(-1)[:3])


def test_a_parameter_beside_deepspeed_is_accepted(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", types.ModuleType("deepspeed"))
    optimizer = SETAdam([torch.nn.Parameter(torch.ones(4))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(4)
    optimizer.step()
