"""The site: ``python -m tox -e docs`` builds it, and every warning is an error."""

from __future__ import annotations

from importlib.util import find_spec

import skdist

project = "skdist"
author = "The skdist developers"
copyright = author
version = release = skdist.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"skdist {release}"
html_theme_options = {"source_repository": "", "navigation_with_keys": True}

# Pages are read on code-hosting sites too: their anchors are those of GitHub.
myst_heading_anchors = 4

# Single backquotes in docstrings name objects.
default_role = "py:obj"
nitpicky = True
# No inventory of another project is loaded, so that the site builds without a network.
nitpick_ignore_regex = [
    ("py:.*", r"(dask|distributed|nn|numpy|pandas|sklearn|torch|typing)(\..*)?"),
    ("py:obj", r"\w+_"),  # attributes of what is fitted
]

numpydoc_show_class_members = False
autodoc_typehints = "none"  # docstrings say types, shapes and units
autosummary_generate = True
# Classes are documented where users import them from.
autodoc_mock_imports = [name for name in ("torch", "safetensors") if find_spec(name) is None]
