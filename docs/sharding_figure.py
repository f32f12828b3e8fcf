"""Draws sharding.svg: `python docs/sharding_figure.py > docs/figures/sharding.svg`."""

V = [[1, 1, 1, 2], [8, 6, 9, 7]]  # the second moments that each of two processes holds
COLOURS = ["#2f6db3", "#c2571a"]
FONT = 'font-family="Helvetica, Arial, sans-serif" fill="#222"'


def gamma(v: list[int]) -> float:
    """γ = (Σv)² / (d Σv²)."""
    return sum(v) ** 2 / (len(v) * sum(x * x for x in v))


def text(x: float, y: float, words: str, size: int = 14, anchor: str = "middle", weight: str = "normal") -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:g}" y="{y:g}" {style} {FONT}>{words}</text>'


def bars(x: float, y: float, v: list[int], colour: str) -> list[str]:
    """Columns as high as v, standing on (x, y)."""
    return [
        f'<rect x="{x + 24 * i:g}" y="{y - 10 * value:g}" width="18" height="{10 * value}" fill="{colour}"/>'
        for i, value in enumerate(v)
    ]


def numbers(x: float, y: float, v: list[int], name: str = "γ") -> list[str]:
    return [text(x, y, f"{name} = {gamma(v):.2f}"), text(x, y + 19, f"min v = {min(v)}")]


def main() -> None:
    whole = V[0] + V[1]
    parts = []
    for left, title in ((0, "each process by itself"), (310, "setadam: four numbers gathered")):
        parts += [text(left + 145, 26, title, 15, weight="bold")]
        for i, (v, colour) in enumerate(zip(V, COLOURS, strict=True)):
            x = left + 30 + 135 * i
            parts += [*bars(x, 140, v, colour), f'<path d="M{x - 6} 140.5h102" stroke="#222"/>']
            parts += [text(x + 45, 160, f"process {i}", 13)]
            if left:
                r = [value / max(v) for value in v]
                sums = f"{max(v)}, {sum(r):.1f}, {sum(x * x for x in r):.1f}, {min(v)}"
                parts += [text(x + 45, 184, sums, 13), f'<path d="M{x + 45} 192v20" stroke="{colour}"/>']
            else:
                parts += numbers(x + 45, 192, v)
    parts += ['<path d="M350 212.5h230" stroke="#222"/>', *numbers(455, 236, whole)]
    parts += [text(455, 276, "on both, bit for bit", 13), text(145, 236, "two layers, neither of them there", 13)]
    parts += [text(455, 199, "max v, Σr, Σr², min v", 11)]
    print('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 290" width="620" height="290">')
    print('<rect width="620" height="290" fill="#fff"/><path d="M305.5 20v250" stroke="#bbb"/>')
    print("\n".join(parts))
    print("</svg>")


if __name__ == "__main__":
    main()
