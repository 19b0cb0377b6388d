"""The documentation site: Sphinx with MyST and furo, built by `make docs`."""

from importlib.metadata import version as _version

project = "lemmse"
author = copyright = "The lemmse authors"
release = version = _version("lemmse")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = []
# A page that is not in the navigation yet is no error.
suppress_warnings = ["toc.not_included"]
nitpicky = False

myst_heading_anchors = 3
highlight_language = "text"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = False

html_theme = "furo"
html_title = f"lemmse {release}"
html_copy_source = False
html_show_sphinx = False
