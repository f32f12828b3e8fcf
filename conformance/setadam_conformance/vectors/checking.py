"""Running a backend on the vectors and judging it by the stored values and bounds.

The comparison is in exact rational arithmetic, and does not use the oracle.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from setadam_conformance.cases.case import Case, case_from_json, real_view
from setadam_conformance.cases.claimed import as_claimed
from setadam_conformance.judging.bench import Answer, Bench, NonconformingError
from setadam_conformance.judging.judge import STAGES
from setadam_conformance.protocol import Adapter, Capabilities, NumPyArray
from setadam_conformance.vectors.files import CLAIMS, select_bound

Output = dict[str, Any]  # of one layer, as in the file


@dataclass(frozen=True)
class Vector:
    """One vector of a file. out: one entry for each layer of the case; empty if result is "reject"."""

    id: str
    slug: str
    flags: tuple[str, ...]
    note: str
    result: str
    case: Case
    out: tuple[Output, ...]


@dataclass(frozen=True)
class VectorResult:
    """A backend's result on a vector. ratios: the worst error/bound of m, v and θ; empty if there was no step."""

    id: str
    slug: str
    dtype: str
    ratios: dict[str, float]
    problem: str | None = None

    @property
    def conforms(self) -> bool:
        return self.problem is None

    def __str__(self) -> str:
        return f"{self.dtype} {self.id} {self.slug}: {self.problem or 'conforms'}"


def vectors_folder() -> Path:
    """The folder of the vectors: beside the package in a checkout, inside it in an installed wheel.

    Raises
    ------
    FileNotFoundError : there are no vectors in either place.
    """
    package = Path(__file__).parents[1]
    for folder in (package.parent / "vectors", package / "vectors" / "data"):
        if (folder / "schema.json").is_file():
            return folder
    raise FileNotFoundError(f"no vectors beside or inside {package}")


def load(folder: Path, dtype: str) -> tuple[Vector, ...]:
    """The vectors of one dtype."""
    return _parse((folder / f"{dtype}.json").read_text(encoding="utf-8"))


def check(
    adapter: Adapter,
    folder: Path,
    dtypes: Iterable[str],
    select: Callable[[Vector], bool] = lambda vector: True,
) -> list[VectorResult]:
    """Run a backend on the vectors and judge it by the stored values and bounds.

    Vectors that need an option or formulas which the backend does not claim are left out, and so are those for which
    `select` is false: a backend that compiles needs a compilation for each new shape or hyperparameter.
    """
    results: list[VectorResult] = []
    for dtype in dtypes:
        bench = Bench(adapter, dtype)
        chosen = (v for v in load(folder, dtype) if _fits(v, adapter.capabilities) and select(v))
        with np.errstate(all="ignore"):  # NumPy warns of the NaN in some vectors
            results.extend(_check(bench, vector) for vector in chosen)
    return results


def _fits(vector: Vector, claims: Capabilities) -> bool:
    case = vector.case
    return claims.allows(case.needs) and not claims.has_other_formulas and as_claimed(case, claims).hp == case.hp


def _check(bench: Bench, vector: Vector) -> VectorResult:
    identity = (vector.id, vector.slug, vector.case.dtype)
    try:
        if vector.result == "reject":
            bench.refuses(vector.case, vector.note)
            return VectorResult(*identity, {})
        answer = bench.step(vector.case)
    except NonconformingError as error:
        return VectorResult(*identity, {}, error.message)
    return VectorResult(*identity, *_judge(vector, answer, bench.claims))


def _judge(vector: Vector, answer: Answer, claims: Capabilities) -> tuple[dict[str, float], str | None]:
    """The worst error/bound of each stage, and what is wrong with the result, or None."""
    ratios, problem = dict.fromkeys(STAGES, 0.0), None
    for index, (out, param, state) in enumerate(zip(vector.out, answer.params, answer.states, strict=True)):
        if out["param"] == "nan":
            if not np.all(np.isnan(real_view(param).astype(np.float64))):
                problem = problem or f"param of layer {index} must be NaN throughout, got {param.ravel()[:4]}"
            continue
        for stage, got in (("m", state.m), ("v", state.v), ("param", real_view(param))):
            worst, where = _compare(out[stage], got, claims)
            ratios[stage] = max(ratios[stage], worst)
            if worst > 1 and problem is None:
                expected = out[stage]["hi"][where]
                problem = (
                    f"{stage} of layer {index} is {worst:.3g} × its bound off at {where}: the formula gives "
                    f"{float.fromhex(expected):.9g} ({expected}), the backend {float(got.ravel()[where]):.9g}"
                )
    return ratios, problem


def _compare(out: Output, got: NumPyArray, claims: Capabilities) -> tuple[float, int]:
    """The largest |got - (hi + lo)| / bound, and its flat index."""
    size = len(out["hi"])
    stored = {key: [float.fromhex(x) for x in bound] for key, bound in out["bound"].items()}
    bound = select_bound(stored, [word for word, claim in CLAIMS.items() if _claimed(claims, claim)], size) or []
    worst, where = 0.0, 0
    for i, x in enumerate(got.astype(np.float64).ravel()):
        ratio = math.inf
        if np.isfinite(x):
            ratio = _ratio(abs(Fraction(float(x)) - _exact(out["hi"][i]) - _exact(out["lo"][i])), Fraction(bound[i]))
        if ratio > worst:
            worst, where = ratio, i
    return worst, where


def _ratio(error: Fraction, bound: Fraction) -> float:
    """error/bound as a float, for reports. Whether it is above 1 is decided exactly."""
    if error <= bound:
        return min(float(error / bound), 1.0) if error else 0.0
    if error > bound * 10**300:
        return math.inf
    return max(float(error / bound), math.nextafter(1.0, 2.0))


def _claimed(claims: Capabilities, settings: dict[str, Any]) -> bool:
    return all(getattr(claims, name) == value for name, value in settings.items())


@cache
def _exact(x: str) -> Fraction:
    return Fraction(float.fromhex(x))


@cache
def _parse(text: str) -> tuple[Vector, ...]:
    return tuple(
        Vector(
            v["id"],
            v["slug"],
            tuple(v["flags"]),
            v["note"],
            v["result"],
            case_from_json(v["case"] | {"extra": {}}),
            tuple(v.get("out", ())),
        )
        for v in json.loads(text)["vectors"]
    )
