"""Small pieces of HTML. What they are given is HTML, except where they say text."""

from collections.abc import Iterable
from html import escape
from urllib.parse import quote


def anchor(*names: str) -> str:
    """An id for these names. Different names have different ids, and no id needs escaping."""
    return "@".join(quote(name, safe="", errors="surrogatepass") for name in names)


def link(target: str, text: str, kind: str = "") -> str:
    """A link to an id, with this text, in the colour of a status."""
    colour = f' class="{kind}"' if kind else ""
    return f'<a href="#{target}"{colour}>{escape(text)}</a>'


def status(name: str) -> str:
    """A status in its colour."""
    return f'<span class="{name}">{name}</span>'


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table that scrolls sideways in a box of its own. The first column names the rows."""
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(_row(*row) for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def fold(title: str, *body: str, name: str = "", is_open: bool = False) -> str:
    """A part that opens when its title is clicked, or when a link leads into it, as one to its name does."""
    named = f' id="{name}"' if name else ""
    return f"<details{' open' if is_open else ''}><summary>{title}</summary><div{named}>{''.join(body)}</div></details>"


def _row(first: str, *rest: str) -> str:
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{x}</td>" for x in rest)}</tr>'
