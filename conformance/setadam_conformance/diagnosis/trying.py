"""One step of a backend, and the stages at which it is wrong. Unlike a property, it does not stop at the first."""

import faulthandler
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic

from setadam_conformance.cases.case import Case
from setadam_conformance.judging.bench import Answer, Bench, NonconformingError
from setadam_conformance.judging.judge import STAGES, Verdict, judge

SPREAD = "spread"  # the stage of a NaN or an infinity that is in the wrong place
RAISED = "raised"  # the stage of a step that raised, or returned another dtype, shape or t


class BudgetSpentError(Exception):
    """There are no steps left for the diagnosis."""


@dataclass
class Budget:
    """How many steps a diagnosis may take, and for how many seconds.

    patience: if one step takes longer, the process prints where it is and exits. None: no limit.
    """

    steps: int
    seconds: float = math.inf
    patience: float | None = None
    started: float = field(default_factory=monotonic)

    def spend(self) -> None:
        """Take one step. Raises BudgetSpentError if none is left."""
        if self.steps <= 0 or monotonic() - self.started > self.seconds:
            raise BudgetSpentError
        self.steps -= 1
        if self.patience is not None:
            faulthandler.dump_traceback_later(self.patience, exit=True)


@dataclass(frozen=True)
class Tried:
    """A step that was tried. wrong: the stages beyond their bounds, with their error/bound."""

    case: Case
    answer: Answer | None  # None if it raised
    verdict: Verdict | None
    wrong: Mapping[str, float]
    said: str = ""  # why it raised, or what was misplaced


def attempt(bench: Bench, case: Case, budget: Budget) -> Tried:
    """Try one step. Raises ProtocolError, and BudgetSpentError."""
    budget.spend()
    try:
        answer = bench.step(case)
    except NonconformingError as error:
        return Tried(case, None, None, {RAISED: math.inf}, error.message)
    verdict = judge(case, answer.params, answer.states, bench.claims)
    wrong = {stage: verdict.scores[stage].ratio for stage in STAGES if not verdict.scores[stage].ratio <= 1}
    said = ""
    if not wrong:
        try:
            bench.spreads(case, answer)
        except NonconformingError as error:
            wrong, said = {SPREAD: math.inf}, error.message
    return Tried(case, answer, verdict, wrong, said)
