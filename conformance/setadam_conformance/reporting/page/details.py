"""The details of each backend, folded: its properties by dtype, its claims and its versions."""

from collections.abc import Mapping
from html import escape

from setadam_conformance.reporting.page.markup import anchor, fold, link, status, table
from setadam_conformance.reporting.page.picture import Cells, does_not_conform, place
from setadam_conformance.reporting.summary import covered, dtypes, figure, worst_ratio, worst_status
from setadam_conformance.running.results import Backend, Cell


def details(backend: Backend, properties: Mapping[str, Cells]) -> str:
    """One backend. A property that does not conform is a link to its failure."""
    cells = [cell for of_property in properties.values() for cell in of_property.values()]
    if not cells:
        title = f"<b>{escape(backend.name)}</b> did not run here: {escape(backend.missing)}"
        return fold(title, _facts(backend), name=anchor(backend.name))
    passed = sum(cell.status == "pass" for cell in cells)
    worst = f"{passed} of {len(cells)} passed, worst error/bound {figure(worst_ratio(cells))}"
    title = f"<b>{escape(backend.name)}</b> {status(worst_status(cells))} {worst}"
    columns = dtypes(cells)
    rows = (
        [_named(name, of_property), _examples(of_property), *(_entry(of_property.get(dtype)) for dtype in columns)]
        for name, of_property in properties.items()
    )
    found = table(["property", "examples", *map(escape, columns)], rows)
    return fold(title, found, _facts(backend), name=anchor(backend.name))


def _named(name: str, cells: Cells) -> str:
    """The name of a row: where links to the property lead, unless its failure is that place."""
    if does_not_conform(cells):
        return link(place(cells), name)
    return f'<span id="{place(cells)}">{escape(name)}</span>'


def _examples(cells: Cells) -> str:
    return str(sum(cell.examples for cell in cells.values()))


def _entry(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.status == "pass" and cell.ratio is not None:
        return figure(cell.ratio)
    return f'{status(cell.status)}<span class="reason">{escape(cell.reason)}</span>'


def _facts(backend: Backend) -> str:
    facts = {
        "device": backend.device,
        "versions": ", ".join(f"{k} {x}" for k, x in backend.versions.items()),
        **{f"claim: {k}": _said(x) for k, x in backend.capabilities.items()},
    }
    if backend.coverage:
        facts["coverage"] = covered(backend.coverage)
        facts["classes that did not run"] = ", ".join(backend.coverage.missing)
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(x)}</dd>" for k, x in facts.items() if x)
    return f"<dl>{rows}</dl>"


def _said(claim: object) -> str:
    return ", ".join(map(str, claim)) if isinstance(claim, list | tuple) else str(claim)
