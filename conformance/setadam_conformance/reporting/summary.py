"""The verdict and the summary table, which all reports share."""

from dataclasses import dataclass

from setadam_conformance.running.results import FAILING, Cell, Coverage, Run

VERDICTS = {
    0: "conforms",
    1: "does not conform",
    3: "not judged: a backend did not load or broke the protocol",
    4: "not judged: nothing, or less than a property's minimum, ran",
    5: "not judged: the kit itself is at fault",
}


@dataclass(frozen=True)
class Row:
    """One backend in one dtype, over all properties."""

    backend: str
    dtype: str
    passed: int
    properties: int
    examples: int
    ratio: float | None
    verdict: str


def summary(run: Run) -> list[Row]:
    """A row for each backend and dtype, in the order of the run."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in run.cells:
        groups.setdefault((cell.backend, cell.dtype), []).append(cell)
    return [_row(backend, dtype, cells) for (backend, dtype), cells in groups.items()]


def _row(backend: str, dtype: str, cells: list[Cell]) -> Row:
    statuses = {cell.status for cell in cells}
    bad = next((s for s in ("error", "fail", "xpass", "lapsed", "vacuous") if s in statuses), None)
    return Row(
        backend,
        dtype,
        sum(cell.status == "pass" for cell in cells),
        len(cells),
        sum(cell.examples for cell in cells),
        worst(cells, "ratio"),
        bad or "pass",
    )


def worst(cells: list[Cell], name: str) -> float | None:
    """The largest value of a figure over the cells that have it."""
    return max((x for cell in cells if (x := getattr(cell, name)) is not None), default=None)


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


def headline(run: Run) -> str:
    """The verdict in one line."""
    cells = troubles(run)
    named = ", ".join(sorted({f"{cell.property} on {cell.backend}" for cell in cells})[:3])
    many = len({(cell.property, cell.backend) for cell in cells})
    more = f", and {many - 3} more" if many > 3 else ""
    verdict = VERDICTS.get(run.exit_code, f"exit code {run.exit_code}") + (f": {named}{more}" if cells else "")
    return verdict if run.complete else f"interrupted, so that cells are missing; {verdict}"
