"""The verdict, the cells in order, and the summary table, which all reports share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.running.results import FAILING, Cell, Coverage, Run, Status

# A group of cells has the first of these that one of its cells has.
WORST_FIRST: tuple[Status, ...] = ("error", "fail", "xpass", "lapsed", "vacuous", "xfail", "skip", "pass")

VERDICTS = {
    0: "conforms",
    1: "does not conform",
    3: "not judged: a backend did not load or broke the protocol",
    4: "not judged: nothing, or less than a property's minimum, ran",
    5: "not judged: the kit itself is at fault",
    6: "the arithmetic conforms, the interface does not",
}


@dataclass(frozen=True)
class Row:
    """One backend in one dtype, over all properties of the arithmetic; or its interface, in all dtypes."""

    backend: str
    dtype: str  # or "interface"
    passed: int
    properties: int
    examples: int
    ratio: float | None
    verdict: str


def summary(run: Run) -> list[Row]:
    """For each backend, a row for each dtype, and one for its interface."""
    rows = []
    for backend, properties in by_backend(run).items():
        cells = [cell for by_dtype in properties.values() for cell in by_dtype.values()]
        numbers = [cell for cell in cells if about(cell) == "arithmetic"]
        rows += [_row(backend, dtype, [cell for cell in numbers if cell.dtype == dtype]) for dtype in dtypes(numbers)]
        interface = [cell for cell in cells if about(cell) == "interface"]
        rows += [_row(backend, "interface", interface)] if interface else []
    return rows


def about(cell: Cell) -> str:
    """Whether a cell is about the "arithmetic" or the "interface" of a backend."""
    return PROPERTIES[cell.property].about if cell.property in PROPERTIES else "arithmetic"


def _row(backend: str, dtype: str, cells: list[Cell]) -> Row:
    status = worst_status(cells)
    return Row(
        backend,
        dtype,
        sum(cell.status == "pass" for cell in cells),
        len(cells),
        sum(cell.examples for cell in cells),
        worst_ratio(cells),
        "pass" if status in ("xfail", "skip") else status,
    )


def by_backend(run: Run) -> dict[str, dict[str, dict[str, Cell]]]:
    """The cells by backend, property and dtype."""
    groups: dict[str, dict[str, dict[str, Cell]]] = {}
    for cell in run.cells:
        groups.setdefault(cell.backend, {}).setdefault(cell.property, {})[cell.dtype] = cell
    return groups


def dtypes(cells: Iterable[Cell]) -> list[str]:
    """The dtypes of the cells: the kit's in their usual order, then patterns of expectations."""
    found = dict.fromkeys(cell.dtype for cell in cells)
    return [*(dtype for dtype in FORMATS if dtype in found), *(dtype for dtype in found if dtype not in FORMATS)]


def worst_status(cells: Iterable[Cell]) -> Status:
    """The status of a group of cells."""
    return min((cell.status for cell in cells), key=WORST_FIRST.index)


def worst_ratio(cells: Iterable[Cell]) -> float | None:
    """The worst error/bound over the cells that have one."""
    return max((cell.ratio for cell in cells if cell.ratio is not None), default=None)


def short_names(names: Iterable[str], width: int) -> dict[str, str]:
    """A different name of at most `width` characters for each name. The middle of a long one is left out."""
    short: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short[name] = _shorten(name, width)
        count = 2
        while list(short.values()).count(short[name]) > 1:
            mark = f"~{count}"
            short[name], count = _shorten(name, width - len(mark)) + mark, count + 1
    return short


def _shorten(name: str, width: int) -> str:
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[-end:]}"


def covered(x: Coverage) -> str:
    """The coverage of the table of dimensions in one line."""
    return f"{x.classes} of {x.classes_allowed} classes, {x.pairs} of {x.pairs_allowed} pairs"


def figure(x: float | None) -> str:
    """Three digits, or a dash if there is no value."""
    if x is None:
        return "–"
    return f"{x:.3f}" if x < 10 else f"{x:.3g}"


def troubles(run: Run) -> list[Cell]:
    """The cells that keep a run from conforming."""
    return [cell for cell in run.cells if cell.status in FAILING or cell.status == "vacuous"]


def verdict(run: Run) -> str:
    """The verdict in a few words."""
    said = VERDICTS.get(run.exit_code, f"exit code {run.exit_code}")
    return said if run.complete else f"interrupted, so that cells are missing; {said}"


def headline(run: Run) -> str:
    """The verdict in one line, with the first properties that did not pass."""
    named = sorted({f"{cell.property} on {cell.backend}" for cell in troubles(run)})
    return verdict(run) + (f": {some(named)}" if named else "")


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f", and {more} more" if more > 0 else "")
