"""The property `sharded` accepts the step of the whole layer, and rejects statistics of single shards."""

from dataclasses import replace

import numpy as np
import pytest

from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.judging.bench import Bench, NonconformingError
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import LayerState, ProtocolError

SHARDED = PROPERTIES["sharded"]


class Whole(NumPySpec):
    capabilities = replace(NumPySpec.capabilities, layouts=("whole",))

    def step_sharded(self, layout, *args):
        return self.step(*args)


class Local(NumPySpec):
    """Steps each half of a layer separately, as an optimizer does that does not know about sharding."""

    capabilities = replace(NumPySpec.capabilities, layouts=("halves",))

    def step_sharded(self, layout, params, grads, states, hp, layer_axes):
        def half(i):
            def cut(x):
                return np.array_split(x, 2)[i]

            own = [LayerState(cut(s.m), cut(s.v), s.t) for s in states]
            return self.step([cut(p) for p in params], [cut(g) for g in grads], own, hp, layer_axes)

        (p, s), (q, r) = half(0), half(1)
        states = [
            LayerState(np.concatenate([a.m, b.m]), np.concatenate([a.v, b.v]), a.t) for a, b in zip(s, r, strict=True)
        ]
        return [np.concatenate(pair) for pair in zip(p, q, strict=True)], states


def case():
    rng = np.random.default_rng(0)
    m, v = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)) ** 2
    return Case("float64", (LayerCase(rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), m, v),), t=3)


def test_a_whole_layer_conforms():
    assert SHARDED.concerns(Whole.capabilities, "float64")
    SHARDED.check(Bench(Whole(), "float64"), case())


def test_statistics_of_shards_do_not_conform():
    with pytest.raises(NonconformingError, match=r"param of layer 0 is .* its bound off"):
        SHARDED.check(Bench(Local(), "float64"), case())


def test_only_backends_with_layouts_are_tried():
    assert not SHARDED.concerns(NumPySpec.capabilities, "float64")


def test_a_claim_without_the_method_breaks_the_protocol():
    class Nothing(NumPySpec):
        capabilities = Whole.capabilities

    with pytest.raises(ProtocolError, match="no method step_sharded"):
        SHARDED.check(Bench(Nothing(), "float64"), case())
