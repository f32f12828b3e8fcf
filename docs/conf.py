"""Sphinx's settings: `make docs` builds the site, with warnings as errors, and from this machine alone."""

from importlib.metadata import version as version_of

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
default_role = "code"  # as docstrings use single backticks
autodoc_typehints = "none"  # arrays are Any to mypy; docstrings say what they are
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "setadam"
html_static_path = ["_static"]
html_css_files = ["setadam.css"]
html_copy_source = False
html_show_sphinx = False
