"""A run as one self-contained HTML page, without scripts or requests, in light and dark colours.

It opens with the verdict and a picture of all results; then come what failed, the summary, and the rest, folded.
"""

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path

from setadam_conformance.reporting.page.details import details
from setadam_conformance.reporting.page.distributions import distributions
from setadam_conformance.reporting.page.failures import failures
from setadam_conformance.reporting.page.markup import anchor, link, status, table
from setadam_conformance.reporting.page.picture import Groups, picture
from setadam_conformance.reporting.summary import (
    by_backend,
    dtypes,
    figure,
    short_names,
    some,
    troubles,
    verdict,
    worst_ratio,
    worst_status,
)
from setadam_conformance.running.results import Cell, Run


def write_html(run: Run, path: Path) -> None:
    """Write the page."""
    path.write_text(_page(run), encoding="utf-8", errors="replace")  # UTF-8 has no lone surrogates


def _page(run: Run) -> str:
    groups = by_backend(run)
    css = files("setadam_conformance.reporting.page").joinpath("page.css").read_text(encoding="utf-8")
    shown = {backend.name: groups[backend.name] for backend in run.backends if backend.name in groups}
    sections = {
        f"What fails ({len(troubles(run))})": ("failures", failures(run)),
        "Summary": ("summary", _summary(shown)),
        "Backends": ("backends", "".join(details(b, groups.get(b.name, {})) for b in run.backends)),
        "Distributions": ("distributions", distributions(run.cells)),
        "Environment": ("environment", _environment(run)),
    }
    sections = {title: section for title, section in sections.items() if section[1]}
    body = [
        f'<h1 class="{"pass" if run.exit_code == 0 else "fail"}">{escape(_title(run))}</h1>',
        _settings(run),
        picture(shown) if shown else "",
        _absent(run),
        f"<nav><ul>{''.join(f'<li>{link(name, title)}</li>' for title, (name, _) in sections.items())}</ul></nav>",
        *(f'<section id="{name}"><h2>{title}</h2>{text}</section>' for title, (name, text) in sections.items()),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>SET-Adam conformance</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{css}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _title(run: Run) -> str:
    """The verdict in one line, with the first backends that did not pass."""
    names = short_names((cell.backend for cell in troubles(run)), 40)
    said = verdict(run)
    return said[0].upper() + said[1:] + (f": {some(list(names.values()))}" if names else "")


def _settings(run: Run) -> str:
    shard = "" if run.shard == (1, 1) else f", shard {run.shard[0]} of {run.shard[1]}"
    return (
        f"<p>SET-Adam conformance, profile {escape(run.profile)}, seed {run.seed}{shard}, {escape(run.started)}, "
        f"{run.seconds:.0f} s. Error/bound is the worst error in units of a bound that no correct implementation "
        "exceeds.</p>"
    )


def _absent(run: Run) -> str:
    """The backends that are not in the picture."""
    names = [link(anchor(backend.name), backend.name) for backend in run.backends if backend.missing]
    return f"<p>Did not run here: {', '.join(names)}.</p>" if names else ""


def _summary(groups: Groups) -> str:
    """Backend × dtype: the worst error/bound; and what all dtypes have together."""
    found = {
        backend: [cell for by_dtype in properties.values() for cell in by_dtype.values()]
        for backend, properties in groups.items()
    }
    columns = dtypes(cell for cells in found.values() for cell in cells)
    rows = (
        [
            link(anchor(backend), backend),
            *(_worst(cell for cell in cells if cell.dtype == dtype) for dtype in columns),
            f"{sum(cell.status == 'pass' for cell in cells)} of {len(cells)}",
            str(sum(cell.examples for cell in cells)),
            status(worst_status(cells)),
        ]
        for backend, cells in found.items()
    )
    return table(["worst error/bound", *map(escape, columns), "passed", "examples", "verdict"], rows)


def _worst(cells: Iterable[Cell]) -> str:
    """The worst error/bound of the cells; nothing if there are none."""
    cells = list(cells)
    return figure(worst_ratio(cells)) if cells else ""


def _environment(run: Run) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(x)}</dd>" for k, x in run.environment.items()) + "</dl>"
