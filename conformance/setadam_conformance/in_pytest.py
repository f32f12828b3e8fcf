"""The cells of an adapter as pytest's tests."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest

from setadam_conformance.diagnosis import cause_of
from setadam_conformance.in_python import AdapterLike, check_arguments, sources_of, text_of
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Capabilities
from setadam_conformance.running.backends import Source
from setadam_conformance.running.coverage import coverage, gaps
from setadam_conformance.running.plan import PROFILES, Plan
from setadam_conformance.running.plan import plan as plan_cells
from setadam_conformance.running.results import Cell
from setadam_conformance.running.workers import Claims, Workers, claims_of
from setadam_conformance.verdicts import concluded, explain


@dataclass
class _Judged:
    """What the cells of one backend share in this process: what is planned, and what was found."""

    source: Source
    device: str
    profile: str
    seed: int
    claims: Claims
    planned: dict[str, Plan]  # by the cell's id
    done: dict[str, Cell] = field(default_factory=dict)
    explained: dict[str, str] = field(default_factory=dict)  # by cause: the id of the cell that has the diagnosis

    def text(self, cell: Cell) -> str:
        """What the command would print of this cell alone, without what the test's name and outcome say."""
        if cell.failure is None:
            return f"{cell.status}: {cell.reason}"
        run = concluded(
            {self.source: self.claims},
            [],
            [cell],
            profile=self.profile,
            seed=self.seed,
            device=self.device,
            started=time.perf_counter(),
            whole=False,
        )
        text = text_of(run, failures_only=True).removeprefix(f"{self.source.name}: ")
        return text.removeprefix("fail: ")


@dataclass
class ConformanceCell:
    """One property in one dtype on one adapter, or the coverage of all: a test.

    Attributes
    ----------
    id : str
        `one-step-float32`; `coverage`; or `loading`, if the adapter cannot run here.
    property, dtype : str
        The two parts of the id; the dtype of the last two is "any".
    """

    id: str
    property: str
    dtype: str
    _judged: _Judged = field(repr=False)

    def check(self) -> None:
        """Run it. The test fails with the diagnosis, without a traceback, if the cell does not pass.

        That is so if the adapter does not conform, if it breaks the protocol, and if fewer examples than the minimum
        ran. The first failure of a cause in a process has its diagnosis, the others name that test. Coverage is
        skipped unless all the cells that it is about passed before, in the same process.
        """
        check = {"loading": _check_loading, "coverage": _check_coverage}.get(self.property, _check_property)
        check(self, self._judged)


def cells_of(
    adapter: AdapterLike,
    *,
    device: str = "cpu",
    profile: str = "quick",
    dtypes: Collection[str] = (),
    properties: Collection[str] = (),
    about: str | None = None,
    seed: int = 0,
) -> list[ConformanceCell]:
    """The cells of an adapter, with the arguments of `check_conformance`. See `pytest_plugin.conformance`."""
    check_arguments(profile=profile, dtypes=dtypes, properties=properties, about=about)
    cells: list[ConformanceCell] = []
    sources = sources_of(adapter)
    for source in sources:
        source.check_module()  # a misspelt name would be a library that is missing, which is skipped
        prefix = f"{source.name}-" if len(sources) > 1 else ""
        claims = claims_of(source, device)
        planned = plan_cells(
            {source: claims} if isinstance(claims, Capabilities) else {},
            profile=PROFILES[profile],
            seed=seed,
            device=device,
            dtypes=tuple(dtypes),
            properties=tuple(properties),
            about=about,
        )
        planned.sort(key=lambda plan: not PROPERTIES[plan.property].is_central)  # the most telling diagnosis first
        by_id = {f"{prefix}{plan.property}-{plan.dtype}": plan for plan in planned}
        judged = _Judged(source, device, profile, seed, claims, by_id)
        cells += [ConformanceCell(name, plan.property, plan.dtype, judged) for name, plan in by_id.items()]
        if not isinstance(claims, Capabilities):
            cells.append(ConformanceCell(f"{prefix}loading", "loading", "any", judged))
        if any(plan.strength for plan in planned):
            cells.append(ConformanceCell(f"{prefix}coverage", "coverage", "any", judged))
    if not cells:
        raise ValueError(f"no property concerns {adapter!r} with dtypes={dtypes!r}, properties={properties!r}")
    return cells


def _check_loading(cell: ConformanceCell, judged: _Judged) -> None:
    """The backend did not load, or cells of it would stand here."""
    if isinstance(judged.claims, str):
        pytest.skip(f"{judged.source.name} cannot run here: {judged.claims}")
    pytest.fail(f"{judged.source.name}: error: {judged.claims}", pytrace=False)


def _check_property(cell: ConformanceCell, judged: _Judged) -> None:
    workers = Workers(1)  # this process; the adapter is kept for the next cell
    (result,) = workers.run([judged.planned[cell.id]])
    judged.done[cell.id] = result
    if result.status == "pass":
        return
    if result.failure:
        cause = cause_of(judged.source, judged.device, result)
        first = judged.explained.setdefault(cause, cell.id)
        if first != cell.id:
            pytest.fail(
                f"{result.failure.message}\n  the cause is that of {first}, and is explained there", pytrace=False
            )
        explain([result], [judged.source], workers, judged.device)
    pytest.fail(judged.text(result), pytrace=False)


def _check_coverage(cell: ConformanceCell, judged: _Judged) -> None:
    covering = [name for name, plan in judged.planned.items() if plan.strength]
    results = [judged.done.get(name) for name in covering]
    passed = [result for result in results if result and result.status == "pass"]
    if len(passed) < len(covering):
        pytest.skip(f"can be told only if these have passed in this process: {', '.join(covering)}")
    assert isinstance(judged.claims, Capabilities)
    reached = coverage(list(judged.planned.values()), passed, {judged.source.name: judged.claims})
    for gap in gaps(reached, passed):
        pytest.fail(judged.text(gap), pytrace=False)
