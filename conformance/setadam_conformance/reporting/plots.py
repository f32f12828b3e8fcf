"""Small SVG plots without a plotting library: histograms, and scatter plots on logarithmic axes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 24, 40
# Okabe and Ito's colours, which colour-blind readers can distinguish. Each series also has its own shape.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
Points = Sequence[tuple[float, float]]


def histogram(title: str, series: Mapping[str, Iterable[float]], label: str) -> str:
    """The number of values of error/bound in each quarter of a decade, from 1e-4 and below to above 1."""
    edges = [10 ** (-4 + i / 4) for i in range(18)]  # … 1, then one bin beyond
    counts = {name: _count(values, edges) for name, values in series.items()}
    most = max((max(c) for c in counts.values()), default=0) or 1
    parts = [_frame(title, label, "layers")]
    wide = (WIDTH - LEFT - RIGHT) / len(edges)
    each = wide / max(len(counts), 1)
    for k, (name, bins) in enumerate(counts.items()):
        for i, n in enumerate(bins):
            if n:
                tall = (HEIGHT - TOP - BOTTOM) * n / most
                x, y = LEFT + i * wide + k * each, HEIGHT - BOTTOM - tall
                tip = f"{name}: {n}"
                parts.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{each:.1f}" height="{tall:.1f}" fill="{COLOURS[k % 6]}">'
                    f"<title>{escape(tip)}</title></rect>"
                )
    for exponent in range(-4, 1):
        x = LEFT + (4 * (exponent + 4) + 1) * wide
        parts.append(_tick_x(x, f"1e{exponent}" if exponent else "1"))
    parts.append(_tick_y(TOP, str(most)) + _tick_y(HEIGHT - BOTTOM, "0"))
    return _svg(title, parts, list(counts))


def scatter(title: str, series: Mapping[str, Points], label: str) -> str:
    """Worst error/bound against d or t on logarithmic axes. The line at 1 is the bound."""
    xs = [math.log10(max(x, 1)) for points in series.values() for x, _ in points]
    right = max(math.ceil(max(xs, default=1)), 1)
    low, high = -4.0, 0.5

    def place(x: float, y: float) -> tuple[float, float]:
        share = math.log10(max(x, 1)) / right
        height = (min(max(math.log10(max(y, 1e-99)), low), high) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - height * (HEIGHT - TOP - BOTTOM)

    parts = [_frame(title, label, "error/bound")]
    _, one = place(1, 1)
    parts.append(f'<line class="bound" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{one:.1f}" y2="{one:.1f}"/>')
    for k, (_, points) in enumerate(series.items()):
        colour = COLOURS[k % 6]
        for x, y in points:
            px, py = place(x, y)
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2" fill="{colour}" fill-opacity="0.6"/>')
    for exponent in range(right + 1):
        if right <= 6 or exponent % 2 == 0:
            parts.append(_tick_x(place(10**exponent, 1)[0], f"1e{exponent}"))
    for exponent in (-4, -2, 0):
        parts.append(_tick_y(place(1, 10**exponent)[1], f"1e{exponent}" if exponent else "1"))
    return _svg(title, parts, list(series))


def _count(values: Iterable[float], edges: Sequence[float]) -> list[int]:
    bins = [0] * len(edges)
    for value in values:
        bins[next((i for i, edge in enumerate(edges) if value <= edge), len(edges) - 1)] += 1
    return bins


def _frame(title: str, x_label: str, y_label: str) -> str:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<text class="title" x="{LEFT}" y="15">{escape(title)}</text>'
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )


def _tick_x(x: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{text}</text>'


def _tick_y(y: float, text: str) -> str:
    return f'<text x="{LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _svg(title: str, parts: Iterable[str], names: Sequence[str]) -> str:
    legend = "".join(
        f'<span><i style="background:{COLOURS[k % 6]}"></i>{escape(name)}</span>' for k, name in enumerate(names)
    )
    body = "".join(parts)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'
        f"<figcaption>{legend}</figcaption></figure>"
    )
