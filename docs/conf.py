"""The documentation site: Sphinx with MyST and furo, built by `make docs`."""

import re
from importlib.metadata import version as _version
from typing import Any

from sphinx.application import Sphinx

project = "lemmse"
author = copyright = "The lemmse authors"
release = version = _version("lemmse")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# A page that the navigation in index.md does not list is no error.
suppress_warnings = ["toc.not_included"]

myst_heading_anchors = 3
highlight_language = "text"
default_role = "code"
smartquotes = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = False

html_theme = "furo"
html_title = f"lemmse {release}"
html_copy_source = False
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Read docstrings as what they are: plain text, apart from the sections of numpydoc."""
    app.connect("autodoc-process-docstring", _plain, priority=400)


def _plain(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep bars of absolute values, and what a module's docstring draws, from being markup."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[number] = re.sub(r"\|(?=\S[^|]*\|)|(?<=\S)\|", r"\\|", line)
    if what == "module":
        drawn = next((n for n, line in enumerate(lines) if line.startswith("    ")), None)
        if drawn is not None:
            lines[drawn:drawn] = ["::", ""]
