"""Both backends claim layouts, and satisfy the kit's property `sharded`."""

from importlib import import_module

import numpy as np
import pytest

from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.judging.bench import Bench
from setadam_conformance.properties import PROPERTIES


def layer(seed, shape):
    rng = np.random.default_rng(seed)
    param, grad, m, root = (rng.normal(size=shape).astype(np.float32) for _ in range(4))
    return LayerCase(param, grad, m, root**2)


@pytest.mark.parametrize(
    ("module", "name", "layouts"),
    [
        ("setadam_torch.conformance", "TorchDefault", ("rows", "columns", "replicas")),
        ("setadam_jax.conformance", "JittedJAX", ("jit", "shard_map")),
    ],
)
def test_both_backends_spread_layers(module, name, layouts):
    pytest.importorskip(module.split(".")[0].removeprefix("setadam_"))
    adapter, prop = getattr(import_module(module), name)(), PROPERTIES["sharded"]
    assert adapter.capabilities.layouts == layouts
    assert prop.concerns(adapter.capabilities, "float32")
    bench = Bench(adapter, "float32")
    prop.check(bench, Case("float32", (layer(0, (8, 4)), layer(1, (5, 3))), t=3))
    assert bench.score["param"].judged == len(layouts) * (8 * 4 + 5 * 3)
