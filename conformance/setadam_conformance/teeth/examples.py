"""The very examples that a profile makes for a property, kept, so that each fault is shown them all.

They follow from the seed, the property and the dtype, not from the backend: drawing them once for all
faults saves most of the time, and nothing stops at the first failure, so that the share of examples
that reject a fault can be counted.
"""

import warnings
from functools import cache

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

from setadam_conformance.backends import Source
from setadam_conformance.bench import Bench, NonconformingError
from setadam_conformance.case import Case
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Adapter
from setadam_conformance.runner import PROFILES, Plan, _seed, plan
from setadam_conformance.teeth.reference import Reference

_SOURCE = Source(Reference.name, Reference.framework, "setadam_conformance.teeth.reference:Reference")


@cache
def cells(profile: str, dtype: str, seed: int = 0) -> tuple[Plan, ...]:
    """What the profile would run on a backend that claims what the reference claims."""
    return tuple(plan({_SOURCE: Reference()}, profile=PROFILES[profile], seed=seed, dtypes=(dtype,)))


@cache
def examples(cell: Plan) -> tuple[Case, ...]:
    """The cell's examples, in order."""
    kept: list[Case] = []

    @hypothesis.seed(_seed(cell))
    @settings(
        max_examples=cell.examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(PROPERTIES[cell.property].strategy(Reference.capabilities, cell.dtype))
    def collect(case: Case) -> None:
        kept.append(case)

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        collect()
    return tuple(kept)


def rejected(adapter: Adapter, cell: Plan) -> tuple[int, str]:
    """How many of the cell's examples the adapter fails, and what was said of the first."""
    bench, prop = Bench(adapter, cell.dtype), PROPERTIES[cell.property]
    count, message = 0, ""
    with np.errstate(all="ignore"):
        for case in examples(cell):
            try:
                prop.check(bench, case)
            except NonconformingError as error:
                count, message = count + 1, message or error.message
    return count, message
