"""Sphinx's settings: `make docs` builds the site, with warnings as errors, and from this machine alone."""

import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

project = "setadam"
author = "the setadam contributors"
copyright = author  # noqa: A001  (Sphinx's name)
version = release = version_of("setadam")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["figures/**"]
nitpicky = False  # types in signatures are not all documented here

myst_heading_anchors = 3
napoleon_google_docstring = False
napoleon_use_param = napoleon_use_rtype = False  # what stands in the place of types is prose
napoleon_use_ivar = True
napoleon_attr_annotations = False
default_role = "code"  # as docstrings use single backticks
autodoc_typehints = "none"  # arrays are Any to mypy; docstrings say what they are
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "setadam"
html_static_path = ["_static"]
html_css_files = ["setadam.css"]
html_copy_source = False
html_show_sphinx = False


def describe_below_names(
    _app: object, _what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Docstrings here say `name : what it is` in one line, where napoleon would take what follows for a type."""
    found: list[str] = []
    listing = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if following and set(following) == {"-"}:
            listing = line in ("Parameters", "Attributes", "Returns", "Raises")
        name, colon, text = line.partition(" :")
        if listing and colon and not line.startswith(" "):
            found += [name, *([f"    {text.strip()}"] if text.strip() else [])]
        else:
            found.append(line)
    lines[:] = found


IMPORT = re.compile(r'^import \{.*\} from "\./(.*)";\n', flags=re.MULTILINE)


def as_one_script(module: Path, seen: set[Path] | None = None) -> str:
    """A JavaScript module after those that it imports, without `import` and `export`.

    From file:// browsers run a script in a page, but load no module. So names must differ in all of the modules.
    """
    seen = set() if seen is None else seen
    if module in seen:
        return ""
    seen.add(module)
    text = module.read_text(encoding="utf-8")
    imported = [as_one_script(module.with_name(name), seen) for name in IMPORT.findall(text)]
    return "".join(imported) + re.sub(r"^export ", "", IMPORT.sub("", text), flags=re.MULTILINE)


def add_play(app: Any, page: str, *_: object) -> None:
    """The interactive page has its script within itself."""
    if page == "play":
        app.add_css_file("play/play.css")
        app.add_js_file(None, body=as_one_script(Path(app.srcdir) / "_static/play/page.js"), type="module")


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", describe_below_names, priority=400)  # napoleon's is 500
    app.connect("html-page-context", add_play)
    app.connect("env-get-outdated", lambda *_: ["play"])  # its modules are no files that Sphinx watches
