"""Which of the self-test's faults gives the same answers as a backend, wherever both were tried.

A fault is a wrong line with a description. The answers are the same if m, v and θ differ by no more than two roundings:
twice the oracle's bound, and a part for the fault's own result, which may be larger than the right one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from setadam_conformance.cases.case import Case, real_view
from setadam_conformance.cases.formats import compute_format
from setadam_conformance.diagnosis.trying import Tried
from setadam_conformance.judging import oracle
from setadam_conformance.judging.bench import Answer, Bench, NonconformingError
from setadam_conformance.judging.judge import judge
from setadam_conformance.judging.nonfinite import all_finite
from setadam_conformance.protocol import Capabilities, ProtocolError
from setadam_conformance.teeth.faults import FAULTS, Fault

_PARTS = 64  # of u, relative to what the fault adds to the value before the step
_LARGE = 4096  # coordinates: larger layers are left out
_MOST = 3


def suspects(tried: Sequence[Tried], claims: Capabilities) -> list[Fault]:
    """The faults that give the backend's answers in all steps, and are wrong in all that were wrong.

    Steps that are large, or not finite, are left out.
    """
    steps = [t for t in tried if t.answer is not None and _is_plain(t.case)]
    wrong = sorted((t for t in steps if t.wrong), key=lambda t: sum(layer.m.size for layer in t.case.layers))
    if not wrong:
        return []
    found = []
    for fault in FAULTS.values():
        if not {t.case.dtype for t in wrong} <= set(fault.dtypes) or not _same(fault, wrong[:1], claims):
            continue
        if _same(fault, wrong, claims) and _same(fault, [t for t in steps if not t.wrong], claims):
            found.append(fault)
    return found if len(found) <= _MOST else []


def breaks(fault: Fault, check: Callable[[Bench, Case], None], case: Case) -> bool:
    """Whether the fault breaks a rule on this case."""
    try:
        check(Bench(fault.adapter(), case.dtype), case)
    except NonconformingError:
        return True
    except ProtocolError:
        return False
    return False


def _is_plain(case: Case) -> bool:
    return all(layer.m.size <= _LARGE and all_finite(layer) for layer in case.layers)


def _same(fault: Fault, tried: Sequence[Tried], claims: Capabilities) -> bool:
    """Whether the fault gives the backend's answers in these steps, and is wrong where the backend is."""
    adapter = fault.adapter()
    for t in tried:
        if t.case.dtype not in fault.dtypes:
            continue
        try:
            answer = Bench(adapter, t.case.dtype).step(t.case)
        except (NonconformingError, ProtocolError):
            if _is_lost(t):  # by a division by zero, for instance, which only Python raises on
                continue
            return False
        assert t.answer is not None
        if not _close(t.case, t.answer, answer, claims):
            return False
        if "param" in t.wrong and judge(t.case, answer.params, answer.states, claims).conforms:
            return False
    return True


def _is_lost(t: Tried) -> bool:
    """Whether the backend's θ is not finite."""
    assert t.answer is not None
    return not all(np.isfinite(real_view(param).astype(np.float64)).all() for param in t.answer.params)


def _close(case: Case, a: Answer, b: Answer, claims: Capabilities) -> bool:
    with np.errstate(all="ignore"):
        for i, layer in enumerate(case.layers):
            m, v = oracle.moments(case, layer, claims)
            theta = oracle.parameter(
                case, layer, b.states[i].m, b.states[i].v, claims, moment_bounds=(m.bound, v.bound)
            )
            for reference, old, x, y in (
                (m, layer.m, a.states[i].m, b.states[i].m),
                (v, layer.v, a.states[i].v, b.states[i].v),
                (theta, real_view(layer.param), real_view(a.params[i]), real_view(b.params[i])),
            ):
                if not _agree(reference, old, x, y, compute_format(case.dtype).u):
                    return False
    return True


def _agree(reference: oracle.Reference, old: Any, x: Any, y: Any, u: float) -> bool:
    old, x, y = (np.asarray(array, np.float64) for array in (old, x, y))
    allowed = 2 * np.asarray(reference.bound, np.float64) + _PARTS * u * np.abs(y - old)
    both_finite = np.isfinite(x) & np.isfinite(y)
    same = np.where(both_finite, np.abs(x - y) <= allowed, np.isfinite(x) == np.isfinite(y))
    return bool(np.all(same))
