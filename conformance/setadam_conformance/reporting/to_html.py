"""A run as one self-contained HTML page, without scripts or requests, in light and dark colours."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from setadam_conformance.reporting.plots import histogram, scatter
from setadam_conformance.reporting.summary import covered, figure, headline, summary, troubles
from setadam_conformance.running.results import Cell, Run

_STAGES = ("m", "v", "θ")
_CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--line:#d0d7de;--soft:#f6f8fa;--bad:#b42318;--good:#116329}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--line:#30363d;--soft:#161b22;--bad:#ff8a7a;
--good:#56d364}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1100px;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{border:1px solid var(--line);padding:.2rem .5rem;text-align:right;white-space:nowrap}
th{background:var(--soft);font-weight:600}th:first-child,td:first-child,td.name{text-align:left}
.pass{color:var(--good)}.fail,.error,.xpass,.lapsed,.vacuous{color:var(--bad);font-weight:700}
td.heat{background:color-mix(in srgb,#0072b2 calc(var(--r)*45%),transparent)}
pre{background:var(--soft);border:1px solid var(--line);padding:.7rem;overflow:auto;max-height:22rem;font-size:13px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:1rem}
figure{margin:0}svg{width:100%;height:auto}svg text{fill:var(--ink);font-size:11px}svg .title{font-size:12px;
font-weight:600}.axis{fill:none;stroke:var(--ink)}.bound{stroke:var(--bad);stroke-dasharray:5 4}
figcaption span{margin-right:.9rem;font-size:13px}figcaption i{display:inline-block;width:.8em;height:.8em;
margin-right:.3em}
"""


def write_html(run: Run, path: Path) -> None:
    """Write the page."""
    path.write_text(_page(run), encoding="utf-8")


def _page(run: Run) -> str:
    shard = "" if run.shard == (1, 1) else f", shard {run.shard[0]} of {run.shard[1]}"
    good = "pass" if run.exit_code == 0 else "fail"
    body = [
        f'<h1>SET-Adam conformance: <span class="{good}">{escape(headline(run))}</span></h1>',
        f"<p>Profile {escape(run.profile)}, seed {run.seed}{shard}, {escape(run.started)}, {run.seconds:.0f} s. "
        "Error/bound is the worst error in units of a bound that no correct implementation exceeds.</p>",
        "<h2>Summary</h2>",
        _summary(run),
        *(_trouble(cell) for cell in troubles(run)),
        "<h2>Worst error/bound by property</h2>",
        _matrix(run),
        '<h2>Distributions</h2><div class="plots">',
        *_plots(run.cells),
        "</div><h2>Backends and environment</h2>",
        _backends(run),
        _table(["", ""], [[escape(k), escape(x)] for k, x in run.environment.items()]),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>SET-Adam conformance</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_CSS}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table of HTML cells. A cell that starts with <td is used unchanged."""
    top = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(f"<tr>{''.join(x if x.startswith('<td') else f'<td>{x}</td>' for x in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _summary(run: Run) -> str:
    head = ["backend", "dtype", "properties", "examples", "worst error/bound", "verdict"]
    rows = [
        [
            escape(row.backend),
            row.dtype,
            f"{row.passed}/{row.properties}",
            str(row.examples),
            figure(row.ratio),
            f'<span class="{row.verdict}">{row.verdict}</span>',
        ]
        for row in summary(run)
    ]
    return _table(head, rows)


def _matrix(run: Run) -> str:
    """Property × (backend, dtype). Statuses other than pass are written out, not shown by colour alone."""
    columns = list(dict.fromkeys((cell.backend, cell.dtype) for cell in run.cells))
    rows: dict[str, dict[tuple[str, str], Cell]] = {}
    for cell in run.cells:
        rows.setdefault(cell.property, {})[cell.backend, cell.dtype] = cell
    head = ["property", *(f"{escape(backend)}<br>{dtype}" for backend, dtype in columns)]
    return _table(head, ([escape(name), *(_heat(cells.get(c)) for c in columns)] for name, cells in rows.items()))


def _heat(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    tip = escape(f"{cell.examples} examples, {cell.status} {cell.reason}", quote=True)
    text = figure(cell.ratio) if cell.status == "pass" else f'<span class="{cell.status}">{cell.status}</span>'
    share = min(cell.ratio or 0.0, 1.0)
    return f'<td class="heat" style="--r:{share:.2f}" title="{tip}">{text}</td>'


def _trouble(cell: Cell) -> str:
    title = escape(f"{cell.property} on {cell.backend} in {cell.dtype}")
    parts = [f'<h2>{title}: <span class="{cell.status}">{cell.status}</span></h2>']
    if cell.reason:
        parts.append(f"<pre>{escape(cell.reason)}</pre>")
    failure = cell.failure
    if failure is not None:
        parts.append(f"<p>{escape(failure.message)}</p>")
        if failure.stage is not None:
            parts.append(
                f"<p>First difference at {escape(failure.stage)} of layer {failure.layer}, coordinate "
                f"{failure.coordinate}: the formula gives {failure.expected!r}, the backend {failure.got!r}.</p>"
            )
        parts.append(f"<pre>{escape(failure.snippet)}</pre>")
        if failure.repro:
            command = f"setadam-conformance replay {failure.repro} --backend {cell.backend!r}"
            parts.append(f"<p><code>{escape(command)}</code></p>")
    return "".join(parts)


def _plots(cells: list[Cell]) -> Iterable[str]:
    for dtype in dict.fromkeys(cell.dtype for cell in cells):
        rows = [row for cell in cells if cell.dtype == dtype for row in cell.sample]
        series = {stage: [row[2 + i] for row in rows if row[2 + i] > 0] for i, stage in enumerate(_STAGES)}
        yield histogram(f"error/bound in {dtype}", series, "error/bound")
    for name in dict.fromkeys(cell.property for cell in cells):
        rows = [row for cell in cells if cell.property == name for row in cell.sample]
        if rows:
            series = {stage: [row[2 + i] for row in rows if row[2 + i] > 0] for i, stage in enumerate(_STAGES)}
            yield histogram(f"error/bound: {name}", series, "error/bound")
    for i, axis in enumerate(("d, coordinates in the largest layer", "t, steps taken")):
        by_dtype = {
            dtype: _thinned([(row[i], row[4]) for c in cells if c.dtype == dtype for row in c.sample])
            for dtype in dict.fromkeys(cell.dtype for cell in cells)
        }
        yield scatter(f"θ: error/bound against {axis[0]}", by_dtype, axis)


def _thinned(points: Sequence[tuple[float, float]], most: int = 600) -> list[tuple[float, float]]:
    step = max(len(points) // most, 1)
    return [(float(x), y) for x, y in points[::step]]


def _backends(run: Run) -> str:
    def row(name: str, versions: dict[str, str], claims: dict[str, object], missing: str) -> list[str]:
        said = ", ".join(f"{k}={x}" for k, x in claims.items() if k not in ("options", "dtypes", "devices"))
        return [
            escape(name),
            f'<td class="name">{escape(", ".join(f"{k} {x}" for k, x in versions.items()))}</td>',
            f'<td class="name" style="white-space:normal">{escape(missing or said)}</td>',
        ]

    absent = "did not run here: "
    rows = [row(b.name, b.versions, b.capabilities, b.missing and absent + b.missing) for b in run.backends]
    reached = [covered(b.coverage) if b.coverage else "–" for b in run.backends]
    return _table(
        ["backend", "versions", "claims", "coverage"], [[*row, x] for row, x in zip(rows, reached, strict=True)]
    )
