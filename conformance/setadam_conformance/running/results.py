"""The results of a run as plain data: the reports are made from it, and `report diff` compares it."""

from dataclasses import dataclass, field
from typing import Any, Literal

# pass: conforms. fail: does not. error: the backend broke the protocol. skip, xfail: as the expectation file says.
# xpass, lapsed: an expectation that no longer holds. vacuous: too little ran for a verdict.
Status = Literal["pass", "fail", "error", "skip", "xfail", "xpass", "lapsed", "vacuous"]
FAILING = frozenset({"fail", "error", "xpass", "lapsed"})


@dataclass
class TraceRow:
    """One quantity of a step, at the coordinates of the trace.

    expected: by the formula; one number for each coordinate, or a single one for all. got: the backend's; for w̃, what
    its θ and m imply, NaN where they imply nothing; empty if it is not known. ratio: the worst error/bound, if judged.
    """

    symbol: str
    formula: str
    expected: list[float]
    got: list[float] = field(default_factory=list)
    ratio: float | None = None
    parts: bool = False  # the first quantity that is beyond its bound


@dataclass
class Trace:
    """A step of one layer, quantity by quantity: the formula beside the answer."""

    title: str  # the step, the layer and the hyperparameters
    coordinates: list[list[int]]
    rows: list[TraceRow]


@dataclass
class Diagnosis:
    """What is wrong, as far as the kit can tell. Failures of a backend with the same `cause` are reported together."""

    cause: str
    lines: list[str]  # from the most telling to the least
    trace: Trace | None = None  # of the smallest failing layer that was found
    case: dict[str, Any] | None = None  # that layer as a case, see case.case_to_json
    snippet: str = ""  # runnable code that repeats it
    request: str = ""  # the lines to pipe into a program


@dataclass
class Failure:
    """The smallest failing example that was found."""

    message: str  # what failed, in one sentence
    case: dict[str, Any]  # case.case_to_json: everything that `replay` needs
    stage: str | None = None  # the first stage beyond its bound: "m", "v" or "param"
    layer: int | None = None
    coordinate: list[int] | None = None
    expected: float | None = None
    got: float | None = None
    ratio: float | None = None
    snippet: str = ""  # runnable code
    repro: str = ""  # the file that `replay` takes, once written
    diagnosis: Diagnosis | None = None


@dataclass
class Stage:
    """How far one of m, v and θ was from the reference."""

    ratio: float  # worst error/bound
    median: float  # the median over layers of each layer's median error/bound


@dataclass
class Cell:
    """One property on one backend in one dtype."""

    property: str
    backend: str
    dtype: str
    device: str = "cpu"
    status: Status = "vacuous"
    examples: int = 0
    minimum: int = 1
    judged: int = 0  # coordinates that were compared with the oracle
    not_judged: int = 0  # coordinates outside the domain of the bound
    ratio: float | None = None  # worst error/bound; None: nothing compared
    stages: dict[str, "Stage"] = field(default_factory=dict)  # by "m", "v" and "param"; none: nothing compared
    seconds: float = 0.0
    reason: str = ""  # why it is skipped, expected to fail, or vacuous
    failure: Failure | None = None
    # A sample of (d, t, ratio of m, ratio of v, ratio of θ), a layer each, for the plots.
    sample: list[tuple[int, int, float, float, float]] = field(default_factory=list)
    # The rows of the table of dimensions that ran, read back from the examples. Reports have only `Coverage`.
    rows: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Coverage:
    """How many classes of the table of dimensions and pairs of them ran, of those that a backend's claims allow."""

    classes: int
    classes_allowed: int
    pairs: int
    pairs_allowed: int
    required: Literal["classes", "pairs"]
    missing: list[str] = field(default_factory=list)  # the first few that are required and did not run


@dataclass
class Backend:
    """A backend that was selected, and its claims. `missing` says why it could not run."""

    name: str
    framework: str
    device: str = "cpu"
    versions: dict[str, str] = field(default_factory=dict)
    capabilities: dict[str, Any] = field(default_factory=dict)
    missing: str = ""
    coverage: Coverage | None = None  # None if no rows of the table were planned


@dataclass
class Run:
    """A whole run. exit_code: 0 conforming, 1 not, 3 a backend did not load, 4 vacuous, 5 the kit, 6 the interface."""

    profile: str
    seed: int
    shard: tuple[int, int]
    started: str  # ISO 8601, UTC
    seconds: float
    environment: dict[str, str]
    backends: list[Backend]
    cells: list[Cell]
    complete: bool = True
    exit_code: int = 0
