"""The examples of a cell.

They depend only on the seed, the property, the dtype and the backend's claims. So Hypothesis draws them once, and every
backend gets the same ones. Hypothesis runs a backend itself only to shrink a failure.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.configuration import set_hypothesis_home_dir, storage_directory
from hypothesis.errors import FlakyFailure

from setadam_conformance.cases import covering, dimensions
from setadam_conformance.cases.case import Case
from setadam_conformance.cases.claimed import as_claimed
from setadam_conformance.cases.dimensions import Row
from setadam_conformance.cases.rows import case_of
from setadam_conformance.cases.strategies import defaults
from setadam_conformance.judging.bench import NonconformingError
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Capabilities
from setadam_conformance.running.plan import Plan, seed_of


def examples(cell: Plan, claims: Capabilities) -> tuple[Case, ...]:
    """The cell's examples, in order. Raises hypothesis.errors.Unsatisfiable if there are none."""
    if cell.strength:
        return tuple(as_claimed(_made(tuple(row.items()), seed), claims) for row, seed in rows_of(cell, claims))
    asked = Capabilities(dtypes=(cell.dtype,), options=claims.options, compiles=claims.compiles, cost=claims.cost)
    drawn = _examples(cell.property, cell.dtype, cell.examples, seed_of(cell), cell.at_defaults, asked)
    return tuple(as_claimed(case, claims) for case in drawn)


@lru_cache(maxsize=256)
def _made(row: tuple[tuple[str, str], ...], seed: int) -> Case:
    return case_of(dict(row), seed)


def rows_of(cell: Plan, claims: Capabilities) -> list[tuple[Row, int]]:
    """The cell's part of the covering design: the rows of its dtype and shard, and a seed for each."""
    seed = seed_of(cell)
    rows = covering.design(claims, cell.among, cell.strength, seed % 2**32)
    index, count = cell.shard
    mine: list[tuple[Row, int]] = [(row, seed % 2**31 + i) for i, row in enumerate(rows) if row["dtype"] == cell.dtype]
    return mine[index - 1 :: count][: cell.examples]


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
    if cell.strength:
        return _towards_the_plainest(cell, claims, check)
    try:
        with quietly():
            asked = replace(claims, dtypes=(cell.dtype,))
            phases = (Phase.generate, Phase.shrink)
            n, seed = cell.examples, seed_of(cell)
            _engine(
                cell.property,
                cell.dtype,
                n,
                seed,
                cell.at_defaults,
                asked,
                phases,
                lambda case: check(as_claimed(case, claims)),
            )
    except NonconformingError as error:
        return error
    except FlakyFailure:
        return None
    return None


def _towards_the_plainest(cell: Plan, claims: Capabilities, check: Callable[[Case], None]) -> NonconformingError | None:
    """The first failing row, with as many dimensions as possible at their plainest class."""

    def fails(row: Row, seed: int) -> NonconformingError | None:
        try:
            with quietly():
                check(as_claimed(case_of(row, seed), claims))
        except NonconformingError as error:
            return error
        return None

    for row, seed in rows_of(cell, claims):
        failure = fails(row, seed)
        if failure is None:
            continue
        smaller = True
        while smaller:
            smaller = False
            for name, plain in dimensions.plainest().items():
                changed = {**row, name: plain}
                if name == "dtype" or row[name] == plain or not dimensions.is_possible(changed):
                    continue
                found = fails(changed, seed)
                if found is not None:
                    row, failure, smaller = changed, found, True
        usual = dimensions.plainest()
        apart = ", ".join(f"{name} {c}" for name, c in row.items() if c != usual[name])
        failure.message += f"; it needs {apart}" if apart else "; in the plainest circumstances"
        return failure
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

    with _without_storage():
        examine()


@contextmanager
def _without_storage() -> Iterator[None]:
    """Keep Hypothesis from making `.hypothesis/` in the working directory, for its caches, even without a database.

    It may fail to write there, so it gets a folder that cannot exist.
    """
    before: Any = storage_directory(intent_to_write=False)
    set_hypothesis_home_dir(Path(os.devnull, "hypothesis"))
    try:
        yield
    finally:
        set_hypothesis_home_dir(getattr(before, "path", before))  # once it was the path itself


@contextmanager
def quietly() -> Iterator[None]:
    """Hide the warnings of NumPy and frameworks: some cases overflow on purpose."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
