"""The property on gradients of real training: an MLP over 200 steps, a convolution, an embedding with many exact zeros,
attention, and layer norm. The oracle judges each step from the backend's own state.
"""

from functools import cache

from hypothesis import strategies as st

from setadam_conformance.cases import recorded
from setadam_conformance.cases.case import Case
from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.judging.bench import Bench, follow
from setadam_conformance.properties.registry import prop
from setadam_conformance.protocol import Capabilities


@cache
def _starts(name: str, dtype: str) -> tuple[Case, ...]:
    """A recording's steps, each from the specification's state at that step."""
    return tuple(recorded.cases(recorded.recordings()[name], dtype))


def _stretches(claims: Capabilities, dtype: str) -> st.SearchStrategy[Case]:
    """Part of a recording, from its start or from a later step. Expensive backends take fewer steps."""
    longest = max(60 // claims.cost, 4)

    def stretch(name: str, start: int) -> Case:
        all_steps = _starts(name, dtype)
        first = min(start, len(all_steps) - 1)
        extra = {"recording": name, "steps": min(longest, len(all_steps) - first)}
        case = all_steps[first]
        return Case(dtype, case.layers, case.t, case.hp, extra)

    names = sorted(recorded.recordings(), key="mlp".__ne__)  # the MLP first
    if claims.compiles and claims.is_slow:
        names = names[:1]
    return st.builds(stretch, st.sampled_from(names), st.sampled_from([0, 0, 7, 60, 120, 140]))


@prop(_stretches, needs=("many",), share=0.1)
def recorded_training(bench: Bench, case: Case) -> None:
    """With gradients of real training and all layers of a model in one call, each step is within the bound.

    Random numbers miss what training produces: rows that never had a gradient, layers of very different scales, v that
    decays over many steps. Source: conformance/record_gradients.py.
    """
    storage = FORMATS[case.dtype].numpy
    grads_by_step = recorded.recordings()[case.extra["recording"]].grads_by_step
    for _ in range(case.extra["steps"]):
        answer = bench.conform(case)
        if case.t + 1 == len(grads_by_step):
            return
        case = follow(case, answer, [g.astype(storage) for g in grads_by_step[case.t + 1]])
