"""The property of backends that can shard a layer over devices or processes."""

from typing import Any

from hypothesis import strategies as st

from setadam_conformance.cases import strategies as of
from setadam_conformance.cases.case import Case
from setadam_conformance.judging.bench import Bench
from setadam_conformance.properties.registry import prop
from setadam_conformance.protocol import Capabilities, ProtocolError

# Even, uneven, fewer rows than shards, a single coordinate. The first is divisible by every backend's number of shards.
_SHAPES = [(8, 4), (5, 3), (1, 7), (130, 9), (17,), (), (2, 3, 4)]


def _cases(claims: Capabilities, dtype: str) -> st.SearchStrategy[Case]:
    # Contiguous, non-empty arrays only: the other properties try strided and empty ones.
    return of.cases(claims, dtype, shape=of.few(claims, _SHAPES[0], _SHAPES), count=st.sampled_from([1, 2, 3]))


class Sharded:
    """An adapter whose `step` is `step_sharded` in one layout."""

    def __init__(self, adapter: Any, layout: str) -> None:
        self._adapter, self._layout = adapter, layout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def step(self, *args: Any) -> Any:
        return self._adapter.step_sharded(self._layout, *args)


@prop(_cases, applies=lambda claims: bool(claims.layouts), share=0.1)
def sharded(bench: Bench, case: Case) -> None:
    """A layer that is sharded over devices or processes takes the step of the whole layer, in every layout.

    γ and the minimum belong to the layer, not to the shard. With local statistics, the optimizer would depend on the
    number of devices. Source: the paper's algorithm, and docs/sharding.md.
    """
    adapter: Any = bench.adapter
    if not hasattr(adapter, "step_sharded"):
        raise ProtocolError(f"{adapter.name} claims layouts={bench.claims.layouts} but has no method step_sharded")
    for layout in bench.claims.layouts:
        spread: Any = Sharded(adapter, layout)
        bench.conform(case, bench.step(case, spread))
