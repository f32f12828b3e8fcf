"""The failures of one backend, explained: each gets a `Diagnosis`, and failures of one cause get the same one."""

import faulthandler
import math
from collections.abc import Sequence

from setadam_conformance.adapters.command import CommandAdapter, request_lines
from setadam_conformance.cases import dimensions
from setadam_conformance.cases.case import Case, case_from_json, case_to_json
from setadam_conformance.cases.claimed import as_claimed
from setadam_conformance.cases.dimensions import Row
from setadam_conformance.cases.rows import case_of
from setadam_conformance.diagnosis.contrast import Contrast, contrast, sentences
from setadam_conformance.diagnosis.moments import weights
from setadam_conformance.diagnosis.numbers import Number, explanation
from setadam_conformance.diagnosis.places import place
from setadam_conformance.diagnosis.simplest import TELLING, simplest
from setadam_conformance.diagnosis.suspects import breaks, suspects
from setadam_conformance.diagnosis.tracing import is_plain, trace_of
from setadam_conformance.diagnosis.trying import RAISED, SPREAD, Budget, BudgetSpentError, Tried, attempt
from setadam_conformance.judging.bench import Bench
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Adapter, Capabilities, ProtocolError
from setadam_conformance.running.backends import Source
from setadam_conformance.running.examples import quietly
from setadam_conformance.running.results import Cell, Diagnosis
from setadam_conformance.running.runner import adapter_of
from setadam_conformance.running.snippet import snippet
from setadam_conformance.teeth.faults import Fault

_STEPS, _COMPILED_STEPS = 600, 24  # of the specification's cost; a backend that compiles needs a graph for most
_SECONDS = 20.0
_SIMPLIFYING = 60  # steps to look for a simple example when the others are spent
_HEADS = {
    "m": "m is wrong",
    "v": "v is wrong, m is right",
    "param": "θ is wrong, m and v are right",
    SPREAD: "NaN or infinity is in the wrong place",
    RAISED: "the call failed",
}
_ORDER = ("float32", "float64", "bfloat16", "float16")


def diagnose(source: Source, device: str, cells: Sequence[Cell], patience: float | None = None) -> list[Diagnosis]:
    """A diagnosis for each of the cells, all of which failed on this backend.

    patience: if a step takes longer, the process prints where it is and exits. None: no limit. An error, of the backend
    or of the kit, is said in the diagnosis: the verdict does not depend on it.
    """
    try:
        with quietly():
            found = diagnosed(adapter_of(source, device), cells, patience)
    except Exception as error:
        found = [_none(cell, f"{type(error).__name__}: {error}") for cell in cells]
    finally:
        faulthandler.cancel_dump_traceback_later()
    for diagnosis, cell in zip(found, cells, strict=True):
        if diagnosis.case is not None and not diagnosis.snippet:
            diagnosis.snippet = snippet(case_from_json(diagnosis.case), source, cell.property)
    return found


def cause_of(source: Source, device: str, cell: Cell) -> str:
    """What the failures that `diagnose` reports together have in common: the first wrong stage, or else the property.

    It takes one step. Raises ImportError, RuntimeError and ProtocolError like `running.runner.adapter_of`.
    """
    with quietly():
        return _cause(cell, _again(adapter_of(source, device), cell, Budget(1)))


def _none(cell: Cell, why: str) -> Diagnosis:
    assert cell.failure is not None
    return Diagnosis(f"property {cell.property}", [cell.failure.message, f"there is no diagnosis: {why}"])


def diagnosed(adapter: Adapter, cells: Sequence[Cell], patience: float | None = None) -> list[Diagnosis]:
    """`diagnose` for an adapter object, without code."""
    claims = adapter.capabilities
    steps = _COMPILED_STEPS if claims.compiles else max(_STEPS // claims.cost, 30)
    budget = Budget(steps, _SECONDS, patience)
    failing = [_again(adapter, cell, Budget(1, patience=patience)) for cell in cells]
    groups: dict[str, list[int]] = {}
    for i, (cell, tried) in enumerate(zip(cells, failing, strict=True)):
        groups.setdefault(_cause(cell, tried), []).append(i)
    found: dict[int, Diagnosis] = {}
    suspected: dict[tuple[str, ...], Diagnosis] = {}
    faults: dict[str, tuple[Fault, Diagnosis]] = {}
    for cause, members in groups.items():
        known = [tried for tried in (failing[i] for i in members) if tried is not None]
        if known:
            mine = [cells[i] for i in members]
            diagnosis, suspect = _of_stage(adapter, cause, mine, known, budget)
            if suspect:  # the same line may make m wrong in one example and θ in another
                diagnosis = suspected.setdefault(tuple(fault.name for fault in suspect), diagnosis)
                faults.update((fault.name, (fault, diagnosis)) for fault in suspect)
            found.update(dict.fromkeys(members, diagnosis))
    for cause, members in groups.items():
        if members[0] not in found:  # a rule that fails although the step is right: perhaps by the same line
            same = next((d for fault, d in faults.values() if _explains(fault, cells[members[0]])), None)
            found.update(dict.fromkeys(members, same or _of_rule(cells[members[0]], cause)))
    return [found[i] for i in range(len(cells))]


def _explains(fault: Fault, cell: Cell) -> bool:
    assert cell.failure is not None
    return breaks(fault, PROPERTIES[cell.property].check, case_from_json(cell.failure.case))


def _again(adapter: Adapter, cell: Cell, budget: Budget) -> Tried | None:
    """The cell's example as one step, or None if that is right."""
    assert cell.failure is not None
    case = case_from_json(cell.failure.case)
    try:
        tried = attempt(Bench(adapter, cell.dtype), as_claimed(rebuilt(case), adapter.capabilities), budget)
    except (ProtocolError, BudgetSpentError, ValueError, TypeError):  # a property may try what is no step
        return None
    return tried if tried.wrong else None


def rebuilt(case: Case) -> Case:
    """The case with its order in memory, which JSON does not keep, if it is a row of the table."""
    row, seed = case.extra.get("classes"), case.extra.get("seed")
    return case_of(row, seed) if isinstance(row, dict) and isinstance(seed, int) else case


def _cause(cell: Cell, tried: Tried | None) -> str:
    """What failures of one cause have in common: the stage, or else the property."""
    if tried is None:
        return f"property {cell.property}"
    return next(iter(tried.wrong))


def _of_rule(cell: Cell, cause: str) -> Diagnosis:
    """A property that failed although the step itself is right."""
    assert cell.failure is not None
    said = f"the rule {cell.property} is broken, while the step of the example is within its bounds"
    return Diagnosis(
        cause, [said, cell.failure.message, f"why it is a rule: setadam-conformance explain {cell.property}"]
    )


def _of_stage(
    adapter: Adapter, stage: str, cells: Sequence[Cell], failing: Sequence[Tried], budget: Budget
) -> tuple[Diagnosis, list[Fault]]:
    """The diagnosis of failures at one stage, and what the seeded faults do that give the same answers."""
    claims = adapter.capabilities
    dtypes = sorted({cell.dtype for cell in cells}, key=_ORDER.index)
    compared, ended = None, ""
    try:
        compared = _contrast(adapter, claims, stage, dtypes[0], failing, budget)
    except ProtocolError as error:
        ended = f"the diagnosis ended early: {str(error).splitlines()[0]}"
    rows = compared.tried if compared else []
    wrong = [t for t in [*failing, *sorted(rows, key=_ratio, reverse=True)] if next(iter(t.wrong), None) == stage]
    suspect = suspects([*rows, *failing], claims)
    number = explanation(wrong) if is_plain(claims) else None
    weighted = weights(wrong, stage, claims) if stage in ("m", "v") and is_plain(claims) else ""
    smallest = min(wrong or failing, key=_readable)
    try:
        more = Budget(max(budget.steps, _SIMPLIFYING // claims.cost), _SECONDS, budget.patience)
        smallest = simplest(Bench(adapter, smallest.case.dtype), smallest, stage, more)
    except ProtocolError as error:
        ended = f"the diagnosis ended early: {str(error).splitlines()[0]}"
    trace = trace_of(smallest.case, smallest.answer, claims) if smallest.answer else None
    request = request_lines(smallest.case) if isinstance(adapter, CommandAdapter) else ""
    lines = _lines(stage, failing, compared, suspect, number)
    if weighted:
        lines.insert(1 + bool(suspect), f"this would explain them: {weighted}")
    return Diagnosis(stage, lines + [ended] * bool(ended), trace, case_to_json(smallest.case), request=request), suspect


def _readable(t: Tried) -> tuple[bool, bool, int, int]:
    """The best comes first. Three coordinates are best: with fewer, much is the same number."""
    size = sum(layer.m.size for layer in t.case.layers)
    return size < 3 or size > 4096, _ratio(t) < TELLING, size, t.case.t


def _ratio(t: Tried) -> float:
    """The error/bound of the first wrong stage; 0 for NaN, which says less than a wrong number."""
    ratio = next(iter(t.wrong.values()), 0.0)
    return ratio if math.isfinite(ratio) else 0.0


def _contrast(
    adapter: Adapter, claims: Capabilities, stage: str, dtype: str, failing: Sequence[Tried], budget: Budget
) -> Contrast:
    """The contrast from the plainest row in which the stage is wrong, or else from the plainest one."""
    benches = {name: Bench(adapter, name) for name in claims.dtypes}
    first: Contrast | None = None
    for row, seed in _bases(dtype, failing):
        found = contrast(benches, claims, stage, row, budget, seed)
        if found.base_is_wrong or found.separating or not found.complete:
            return found
        first = first or found
    assert first is not None
    return first


def _bases(dtype: str, failing: Sequence[Tried]) -> list[tuple[Row, int | None]]:
    plain = {**dimensions.plainest(), "dtype": dtype}
    rows: list[tuple[Row, int | None]] = [(plain, None)]
    if dtype in ("bfloat16", "float16"):  # their rounding of θ hides the update
        rows.insert(0, ({**plain, "theta": "zero"}, None))
    rows += [(t.case.extra["classes"], t.case.extra["seed"]) for t in failing if "classes" in t.case.extra][:1]
    return rows


def _lines(
    stage: str, failing: Sequence[Tried], compared: Contrast | None, suspect: Sequence[Fault], number: Number | None
) -> list[str]:
    """The diagnosis in sentences, from the most telling to the least."""
    lines = [_HEADS[stage]]
    if stage in (RAISED, SPREAD):
        lines.append(next((t.said for t in failing if t.said), ""))
    if suspect:
        lines.append(f"the answers are as if: {'; or: '.join(fault.what for fault in suspect)}")
    if number is not None:
        lines.append(f"this would explain them: {number}")
    if compared is None:
        return lines
    if where := place(compared, number):
        lines.append(f"look at: {where}")
    lines += sentences(compared)
    if not compared.separating:
        known = "wrong" if compared.base_is_wrong else "right"
        lines.append(f"{known} in all rows of the table of dimensions that were tried, {len(compared.tried)} steps")
    if not compared.complete:
        lines.append(f"only a part of the table of dimensions was tried, {len(compared.tried)} steps, to save time")
    return lines
