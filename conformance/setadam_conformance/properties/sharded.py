"""The optional property of backends that can spread a layer over devices or processes."""

from typing import Any

from hypothesis import strategies as st

from setadam_conformance.cases import strategies as of
from setadam_conformance.cases.case import Case
from setadam_conformance.judging.bench import Bench
from setadam_conformance.properties.registry import prop
from setadam_conformance.protocol import Capabilities, ProtocolError

# Even, uneven, fewer rows than parts, a single coordinate; the first divides by all that backends use.
_SHAPES = [(8, 4), (5, 3), (1, 7), (130, 9), (17,), (), (2, 3, 4)]


def _cases(claims: Capabilities, dtype: str) -> st.SearchStrategy[Case]:
    # Arrays must be whole to be cut: strided and empty ones are for the other properties.
    return of.cases(claims, dtype, shape=of.few(claims, _SHAPES[0], _SHAPES), count=st.sampled_from([1, 2, 3]))


class _Sharded:
    """An adapter whose step is the one over a layout."""

    def __init__(self, adapter: Any, layout: str) -> None:
        self._adapter, self._layout = adapter, layout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def step(self, *args: Any) -> Any:
        return self._adapter.step_sharded(self._layout, *args)


@prop(_cases, applies=lambda claims: bool(claims.layouts), share=0.1)
def sharded(bench: Bench, case: Case) -> None:
    """A layer that is spread over devices or processes takes the step of the whole layer, in every layout.

    γ and the minimum are the layer's, not the shard's: one that takes statistics of what is local is
    another optimizer for each number of devices. Source: the paper's algorithm; docs/sharding.md.
    """
    adapter: Any = bench.adapter
    if not hasattr(adapter, "step_sharded"):
        raise ProtocolError(f"{adapter.name} claims layouts={bench.claims.layouts}, and has no method step_sharded")
    for layout in bench.claims.layouts:
        spread: Any = _Sharded(adapter, layout)
        bench.conform(case, bench.step(case, spread))
