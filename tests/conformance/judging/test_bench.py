"""The bench: what it notices when a backend refuses a step."""

import numpy as np
import pytest

from setadam_conformance.cases.case import Case, fresh_layer
from setadam_conformance.judging.bench import Bench, NonconformingError, native
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import LayerState
from setadam_conformance.teeth.reference import Reference
from setadam_conformance.teeth.variants import VARIANTS

LAYERS = tuple(fresh_layer(np.ones(n, np.float32), np.full(n, 0.5, np.float32)) for n in (3, 2))
CASE = Case("float32", LAYERS, t=4)


class Refusing(Reference):
    """Refuses every step, after `writes`."""

    def writes(self, params, grads, states):
        pass

    def step(self, params, grads, states, hp, layer_axes):
        self.writes(params, grads, states)
        raise ValueError("no")


def _refuses(writes, t=4):
    bench = Bench(type("Writing", (Refusing,), {"writes": writes})(), "float32")
    params, grads, states = native(bench.adapter, CASE)
    return bench.refuses(CASE, "this", (params, grads, [s._replace(t=t) for s in states]))


def test_a_refusal_that_writes_nothing_passes():
    assert _refuses(lambda s, p, g, st: None)


@pytest.mark.parametrize(
    ("name", "writes"),
    [
        ("θ", lambda s, p, g, st: p[1].fill(7)),
        ("g", lambda s, p, g, st: g[1].fill(7)),
        ("m", lambda s, p, g, st: st[0].m.fill(7)),
        ("v", lambda s, p, g, st: st[1].v.fill(7)),
        ("t", lambda s, p, g, st: st[0].t.fill(5)),
        ("t", lambda s, p, g, st: st.__setitem__(1, st[1]._replace(t=5))),
        ("m", lambda s, p, g, st: st.__setitem__(0, LayerState(st[0].m + 1, st[0].v, st[0].t))),
        ("θ", lambda s, p, g, st: p.pop()),
    ],
)
def test_what_was_written_before_a_refusal_is_named(name, writes):
    with pytest.raises(NonconformingError, match=f"this was refused, but {name} had already been changed"):
        _refuses(writes, np.array(4))


def test_a_case_that_may_be_accepted_is_not_a_refusal():
    bench = Bench(Reference(), "float32")
    assert not bench.refuses(CASE, "this", must=False)
    with pytest.raises(NonconformingError, match="this was accepted"):
        bench.refuses(CASE, "this")


def test_the_step_after_a_refusal_must_be_right():
    """A counter of the optimizer's own, which a refused step has incremented."""

    class Counting(VARIANTS["counted-in-place"].adapter):
        own = None

        def step(self, params, grads, states, hp, layer_axes):
            param, t = self.own if self.own and self.own[0] is params[0] else (params[0], int(states[0].t))
            self.own = param, t + 1
            return super().step(params, grads, [s._replace(t=t) for s in states], hp, layer_axes)

    check = PROPERTIES["refusals-change-nothing"].check
    check(Bench(VARIANTS["counted-in-place"].adapter(), "float32"), CASE)
    with pytest.raises(NonconformingError, match="t of layer 0 must be 6 after the step"):
        check(Bench(Counting(), "float32"), CASE)
