"""The picture: backend × property, coloured by the worst error/bound, with letters for all that does not pass.

It is a grid that CSS lays out: backends are rows on a wide screen and columns on a narrow one. The numbers are in a
table behind it, which screen readers get in its place.
"""

from collections.abc import Mapping
from html import escape

from setadam_conformance.properties import PROPERTIES
from setadam_conformance.reporting.page.markup import anchor, fold, link, table
from setadam_conformance.reporting.summary import WORST_FIRST, dtypes, figure, short_names, worst_ratio, worst_status
from setadam_conformance.running.results import FAILING, Cell, Status

Cells = Mapping[str, Cell]  # of one property on one backend, by dtype
Groups = Mapping[str, Mapping[str, Cells]]  # by backend and property

LEVELS = (0.25, 0.5, 0.75, 1.0)  # the colours' upper ends
LETTERS: dict[Status, str] = {
    "error": "E",
    "fail": "F",
    "xpass": "P",
    "lapsed": "L",
    "vacuous": "V",
    "xfail": "x",
    "skip": "s",
}
_MEANINGS: dict[Status, str] = {
    "error": "broke the protocol",
    "fail": "does not conform",
    "xpass": "passes, though expected to fail",
    "lapsed": "the expectation has lapsed",
    "vacuous": "too little ran",
    "xfail": "fails as expected",
    "skip": "skipped as asked",
}


def picture(groups: Groups) -> str:
    """The grid, its legend, and its table, of these backends. Those that do not conform come first."""
    groups = dict(sorted(groups.items(), key=lambda group: not any(map(does_not_conform, group[1].values()))))
    names = short_names(groups, 20)
    order = {name: i for i, name in enumerate(PROPERTIES)}
    columns = sorted({name for properties in groups.values() for name in properties}, key=lambda x: order.get(x, -1))
    parts = [
        *(
            f'<span class="backend" style="--b:{b}" title="{escape(backend)}">{escape(names[backend])}</span>'
            for b, backend in enumerate(groups, 2)
        ),
        *(
            f'<span class="property" style="--p:{p}" title="{escape(explanation(name))}">{escape(name)}</span>'
            for p, name in enumerate(columns, 2)
        ),
        *(
            _square(groups[backend][name], f"--b:{b};--p:{p}")
            for b, backend in enumerate(groups, 2)
            for p, name in enumerate(columns, 2)
            if name in groups[backend]
        ),
    ]
    size = f"--backends:{len(groups)};--properties:{len(columns)}"
    return (
        f'<div class="wide"><div class="picture" style="{size}" aria-hidden="true">{"".join(parts)}</div></div>'
        + _legend(groups)
        + fold("The same in numbers", _numbers(groups, columns), name="numbers")
    )


def explanation(name: str) -> str:
    """The first sentence or two of what the kit says about a property; nothing if it does not know it."""
    prop = PROPERTIES.get(name)
    return " ".join(prop.explanation.partition("\n\n")[0].split()) if prop else ""


def does_not_conform(cells: Cells) -> bool:
    """True if the cells are listed among the failures."""
    return any(cell.status in FAILING or cell.status == "vacuous" for cell in cells.values())


def place(cells: Cells) -> str:
    """The id of the place on the page that has the details of a property on a backend."""
    cell = next(iter(cells.values()))
    return anchor(cell.property, cell.backend)


def _square(cells: Cells, style: str) -> str:
    kind, letter = _look(cells)
    cell = next(iter(cells.values()))
    said = ", ".join(f"{dtype} {_figure({dtype: cells[dtype]})}" for dtype in dtypes(cells.values()))
    examples = sum(cell.examples for cell in cells.values())
    tip = f"{cell.property} on {cell.backend}: {said}; {examples} examples"
    return f'<a class="{kind}" style="{style}" href="#{place(cells)}" title="{escape(tip)}" tabindex="-1">{letter}</a>'


def _look(cells: Cells) -> tuple[str, str]:
    """The class of a square, and its letter."""
    found, ratio = worst_status(cells.values()), worst_ratio(cells.values())
    if found != "pass":
        return ("calm" if found in ("xfail", "skip") else "bad"), LETTERS[found]
    if ratio is None:
        return "exact", ""
    return f"level{next((i for i, top in enumerate(LEVELS) if ratio <= top), len(LEVELS) - 1)}", ""


def _legend(groups: Groups) -> str:
    found = {worst_status(cells.values()) for properties in groups.values() for cells in properties.values()}
    levels = "".join(f'<i class="level{i}"></i>' for i in range(len(LEVELS)))
    parts = [f"worst error/bound 0 {levels} 1", '<i class="exact"></i> passes, with nothing to measure']
    parts += [
        f'<i class="{"calm" if name in ("xfail", "skip") else "bad"}">{LETTERS[name]}</i> {_MEANINGS[name]}'
        for name in WORST_FIRST
        if name in found and name in LETTERS
    ]
    return f'<p class="legend">{"".join(f"<span>{part}</span>" for part in [*parts, "blank: not tried"])}</p>'


def _numbers(groups: Groups, columns: list[str]) -> str:
    """Property × backend: the worst error/bound over the dtypes, or the status."""

    def entry(cells: Cells | None) -> str:
        return link(place(cells), _figure(cells), worst_status(cells.values())) if cells else ""

    rows = ([escape(name), *(entry(properties.get(name)) for properties in groups.values())] for name in columns)
    return table(["property", *(escape(backend) for backend in groups)], rows)


def _figure(cells: Cells) -> str:
    """The worst error/bound, or the status if it is not a number that conforms."""
    found, ratio = worst_status(cells.values()), worst_ratio(cells.values())
    return figure(ratio) if found == "pass" and ratio is not None else found
