"""The plots of error/bound, folded."""

from collections.abc import Iterable, Sequence

from setadam_conformance.reporting.page.markup import fold
from setadam_conformance.reporting.plots import histogram, scatter
from setadam_conformance.reporting.summary import dtypes
from setadam_conformance.running.results import Cell

_STAGES = ("m", "v", "θ")


def distributions(cells: list[Cell]) -> str:
    """Histograms by dtype and by property, and scatter plots against d and t."""
    return fold("Histograms and scatter plots of error/bound", f'<div class="plots">{"".join(_plots(cells))}</div>')


def _plots(cells: list[Cell]) -> Iterable[str]:
    for dtype in dtypes(cells):
        yield _histogram(f"error/bound in {dtype}", [cell for cell in cells if cell.dtype == dtype])
    for name in dict.fromkeys(cell.property for cell in cells):
        yield _histogram(f"error/bound: {name}", [cell for cell in cells if cell.property == name])
    for i, axis in enumerate(("d, coordinates in the largest layer", "t, steps taken")):
        by_dtype = {
            dtype: _thinned([(row[i], row[4]) for c in cells if c.dtype == dtype for row in c.sample])
            for dtype in dtypes(cells)
        }
        yield scatter(f"θ: error/bound against {axis[0]}", by_dtype, axis)


def _histogram(title: str, cells: list[Cell]) -> str:
    """A histogram of m, v and θ; nothing if the cells have no sample."""
    rows = [row for cell in cells for row in cell.sample]
    series = {stage: [row[2 + i] for row in rows if row[2 + i] > 0] for i, stage in enumerate(_STAGES)}
    return histogram(title, series, "error/bound") if rows else ""


def _thinned(points: Sequence[tuple[float, float]], most: int = 600) -> list[tuple[float, float]]:
    step = max(len(points) // most, 1)
    return [(float(x), y) for x, y in points[::step]]
