"""Running a fault or a variant on all examples of a profile. A run does not stop at the first failure, so that the
share of examples that reject a fault can be counted.
"""

from functools import cache

import numpy as np

from setadam_conformance.cases.case import Case
from setadam_conformance.judging.bench import Bench, NonconformingError
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Adapter
from setadam_conformance.running.backends import Source
from setadam_conformance.running.examples import examples as _examples
from setadam_conformance.running.plan import PROFILES, Plan, plan
from setadam_conformance.teeth.reference import Reference

_SOURCE = Source(Reference.name, Reference.framework, "setadam_conformance.teeth.reference:Reference")


@cache
def cells(profile: str, dtype: str, seed: int = 0) -> tuple[Plan, ...]:
    """The cells that the profile would run on a backend with the reference's claims."""
    every = plan({_SOURCE: Reference.capabilities}, profile=PROFILES[profile], seed=seed)
    return tuple(cell for cell in every if cell.dtype == dtype)


@cache
def examples(cell: Plan) -> tuple[Case, ...]:
    """The cell's examples, in order."""
    return _examples(cell, Reference.capabilities)


def rejected(adapter: Adapter, cell: Plan, stop: bool = False) -> tuple[int, str]:
    """How many of the cell's examples the adapter fails (at most 1 with `stop`), and the message of the first."""
    bench, prop = Bench(adapter, cell.dtype), PROPERTIES[cell.property]
    count, message = 0, ""
    with np.errstate(all="ignore"):
        for case in examples(cell):
            try:
                prop.check(bench, case)
            except NonconformingError as error:
                count, message = count + 1, message or error.message
                if stop:
                    break
    return count, message
