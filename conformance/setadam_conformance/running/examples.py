"""The examples of a cell.

They depend only on the seed, the property, the dtype and the backend's claims. So Hypothesis draws them once, and every
backend gets the same ones. Hypothesis runs a backend itself only to shrink a failure.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import FlakyFailure

from setadam_conformance.cases.case import Case
from setadam_conformance.cases.strategies import defaults
from setadam_conformance.judging.bench import NonconformingError
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Capabilities
from setadam_conformance.running.plan import Plan, seed_of


def examples(cell: Plan, claims: Capabilities) -> tuple[Case, ...]:
    """The cell's examples, in order. Raises hypothesis.errors.Unsatisfiable if there are none."""
    asked = Capabilities(dtypes=(cell.dtype,), options=claims.options, compiles=claims.compiles, cost=claims.cost)
    return _examples(cell.property, cell.dtype, cell.examples, seed_of(cell), cell.at_defaults, asked)


@lru_cache(maxsize=256)
def _examples(
    prop: str, dtype: str, count: int, seed: int, at_defaults: bool, claims: Capabilities
) -> tuple[Case, ...]:
    kept: list[Case] = []
    with quietly():
        _engine(prop, dtype, count, seed, at_defaults, claims, (Phase.generate,), kept.append)
    return tuple(kept)


def shrink(cell: Plan, claims: Capabilities, check: Callable[[Case], None]) -> NonconformingError | None:
    """The cell's failure, shrunk by Hypothesis; None if it does not fail again."""
    try:
        with quietly():
            asked = replace(claims, dtypes=(cell.dtype,))
            phases = (Phase.generate, Phase.shrink)
            n, seed = cell.examples, seed_of(cell)
            _engine(cell.property, cell.dtype, n, seed, cell.at_defaults, asked, phases, check)
    except NonconformingError as error:
        return error
    except FlakyFailure:
        return None
    return None


def _engine(
    prop: str,
    dtype: str,
    count: int,
    seed: int,
    at_defaults: bool,
    claims: Capabilities,
    phases: tuple[Phase, ...],
    check: Callable[[Case], None],
) -> None:
    strategy = PROPERTIES[prop].strategy(claims, dtype)
    if at_defaults:
        strategy = strategy.map(lambda case: replace(case, hp=defaults()))

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
    )
    @given(strategy)
    def examine(case: Case) -> None:
        check(case)

    examine()


@contextmanager
def quietly() -> Iterator[None]:
    """Hide the warnings of NumPy and frameworks: some cases overflow on purpose."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
