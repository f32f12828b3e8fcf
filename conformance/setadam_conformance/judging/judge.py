"""The comparator: a backend's result against the oracle's, stage by stage and coordinate by coordinate.

The comparison is in the oracle's arithmetic. Rounding the reference first would reject correct results.
"""

from dataclasses import dataclass, field

import numpy as np

from setadam_conformance.cases.case import Case, real_view
from setadam_conformance.cases.formats import arithmetic_format
from setadam_conformance.judging import oracle
from setadam_conformance.protocol import Capabilities, LayerState, NumPyArray

STAGES = ("m", "v", "param")


@dataclass
class Score:
    """The largest error of a quantity over the coordinates that are judged."""

    ratio: float = 0.0  # |error| / bound; a correct implementation is never above 1
    coordinate: tuple[int, ...] | None = None  # of the worst ratio, in the real view
    expected: float = 0.0
    got: float = 0.0
    judged: int = 0
    not_judged: int = 0

    def absorb(self, other: "Score") -> None:
        """Keep the worse of the two, and add up the counts."""
        counts = self.judged + other.judged, self.not_judged + other.not_judged
        if other.ratio > self.ratio or self.coordinate is None:
            self.__dict__.update(other.__dict__)
        self.judged, self.not_judged = counts


@dataclass
class Verdict:
    """The scores of one step, by stage, and the first stage and layer beyond its bound."""

    scores: dict[str, Score] = field(default_factory=lambda: {stage: Score() for stage in STAGES})
    # The median error/bound of each layer, by stage.
    medians: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    parted_at: str | None = None
    parted_layer: int | None = None

    @property
    def conforms(self) -> bool:
        return self.parted_at is None

    @property
    def ratio(self) -> float:
        return max(score.ratio for score in self.scores.values())


def judge(
    case: Case,
    params: list[NumPyArray],
    states: list[LayerState],
    claims: Capabilities,
) -> Verdict:
    """Judge one step: m and v against the inputs, then θ against the moments that were returned."""
    verdict = Verdict()
    with np.errstate(all="ignore"):  # some cases overflow on purpose; overflowed values are not judged
        _judge_layers(case, params, states, claims, verdict)
    return verdict


def _judge_layers(
    case: Case, params: list[NumPyArray], states: list[LayerState], claims: Capabilities, verdict: Verdict
) -> None:
    for index, (layer, param, state) in enumerate(zip(case.layers, params, states, strict=True)):
        m, v = oracle.moments(case, layer, claims)
        theta = oracle.parameter(case, layer, state.m, state.v, claims, moment_bounds=(m.bound, v.bound))
        safe = m.judged
        if not claims.is_elementwise:  # an overflow affects its whole layer
            safe = np.all(safe, axis=layer.real_axes, keepdims=True)
        if layer.is_complex:  # products of complex numbers mix the two parts if one is not finite
            m, v, theta = (_taken_together(reference) for reference in (m, v, theta))
        for stage, reference, got in (
            ("m", m, state.m),
            ("v", v, state.v),
            ("param", theta._replace(judged=theta.judged & safe), real_view(param)),
        ):
            score, median = compare(reference, got, arithmetic_format(case.dtype, claims).name)
            verdict.scores[stage].absorb(score)
            if score.judged:
                verdict.medians[stage].append(median)
            if not score.ratio <= 1 and verdict.parted_at is None:
                verdict.parted_at, verdict.parted_layer = stage, index


def _taken_together(reference: oracle.Reference) -> oracle.Reference:
    """The reference of a complex array in its real view, judged where both parts are finite."""
    finite = np.all(np.isfinite(np.asarray(reference.value, np.float64)), axis=-1, keepdims=True)
    return reference._replace(judged=reference.judged & finite)


def compare(reference: oracle.Reference, got: NumPyArray, compute: str) -> tuple[Score, float]:
    """The score of one array, and its median error/bound. NaN instead of a number scores infinity.

    Errors are not counted in ulps: where the terms of a sum cancel, a correct result may be millions of ulps off.
    """
    if got.size == 0:
        return Score(), 0.0
    wide = oracle.arithmetic(compute)
    judged = np.broadcast_to(reference.judged & np.isfinite(np.asarray(reference.value, np.float64)), got.shape)
    count = int(np.sum(judged))
    if count == 0:
        return Score(not_judged=got.size), 0.0
    finite = np.isfinite(np.asarray(got, np.float64))
    error = np.abs(wide.array(np.where(finite, got, 0)) - reference.value)
    ratio = np.asarray(error / reference.bound, np.float64)
    ratio = np.where(judged, np.where(finite, ratio, np.inf), 0.0)
    worst = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    score = Score(
        ratio=float(ratio[worst]),
        coordinate=tuple(int(i) for i in worst),
        expected=float(np.asarray(reference.value)[worst]),
        got=float(got[worst]),
        judged=count,
        not_judged=got.size - count,
    )
    return score, float(np.median(ratio[judged]))
