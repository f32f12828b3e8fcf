"""Running a fault or a variant on all examples of a profile. A run does not stop at the first failure, so that the
share of examples that reject a fault can be counted.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from setadam_conformance.cases.case import Case
from setadam_conformance.judging.bench import Bench, NonconformingError
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Adapter, Capabilities
from setadam_conformance.running.backends import Source
from setadam_conformance.running.examples import examples as _examples
from setadam_conformance.running.plan import PROFILES, Plan, plan
from setadam_conformance.teeth.reference import Reference

_SOURCE = Source(Reference.name, Reference.framework, "setadam_conformance.teeth.reference:Reference")


@cache
def cells(profile: str, dtype: str, seed: int = 0, claims: Capabilities = Reference.capabilities) -> tuple[Plan, ...]:
    """The cells that the profile would run on a backend with these claims."""
    every = plan({_SOURCE: claims}, profile=PROFILES[profile], seed=seed)
    return tuple(cell for cell in every if cell.dtype == dtype)


def examples(cell: Plan, claims: Capabilities = Reference.capabilities) -> tuple[Case, ...]:
    """The cell's examples, in order."""
    return _drawn(cell, replace(claims, **_OF_BOUNDS))


_drawn = cache(_examples)
# Claims that change bounds, and no example.
_OF_BOUNDS: dict[str, Any] = {
    "reduction": "pairwise",
    "flushes_subnormals": False,
    "recomputes_moments": False,
    "traced_t": False,
    "corrections": "accurate",
    "minimum_skips_nan": False,
}


def rejected(adapter: Adapter, cell: Plan, stop: bool = False) -> tuple[int, str]:
    """How many of the cell's examples the adapter fails (at most 1 with `stop`), and the message of the first."""
    bench, count, message = Bench(adapter, cell.dtype), 0, ""
    for case in examples(cell, adapter.capabilities):
        failure = fails(adapter, cell, case, bench)
        if failure is not None:
            count, message = count + 1, message or failure
            if stop:
                break
    return count, message


def fails(adapter: Adapter, cell: Plan, case: Case, bench: Bench | None = None) -> str | None:
    """The message with which the adapter fails an example of the cell, or None if it passes."""
    with np.errstate(all="ignore"):
        try:
            PROPERTIES[cell.property].check(bench or Bench(adapter, cell.dtype), case)
        except NonconformingError as error:
            return error.message
    return None
