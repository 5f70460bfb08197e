"""Sphinx settings. Everything is built from this repository: no network is needed."""

from __future__ import annotations

import warnings

import captum_robust

project = "captum_robust"
author = "The captum_robust contributors"
copyright = f"2026, {author}"
release = version = captum_robust.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "auto_examples/GALLERY_HEADER.rst"]
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings hold objects

# The pages of the rooms are made from docstrings; `__all__` of each room says what is public.
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# References to names of this package must resolve. Those of others do not, without the network; nor
# do types in signatures, which Sphinx writes as they are spelled.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:class", r"(?!captum_robust).*"),
    (r"py:class", r"captum_robust\..*\._\w+\..*"),  # bases that users have no business with
    (r"py:.*", r"(abc|captum|collections|matplotlib|numpy|torch|torchattacks|torchvision)(\..*)?"),
]

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"

html_theme = "furo"
html_title = f"captum_robust {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]

# The quickstart runs while the documentation is built; the other scripts are shown as they are,
# since they train networks or need the `demo` extra.
sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["auto_examples"],
    "filename_pattern": r"[/\\]quickstart\.py$",
    "ignore_pattern": r"([/\\]reproduce[/\\]|__init__\.py)",
    "nested_sections": False,
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 3600,  # times depend on the machine
    "write_computation_times": False,
    "plot_gallery": "True",
    "within_subsection_order": "ExampleTitleSortKey",
}

# Figures are collected by sphinx-gallery; showing them is no fault.
warnings.filterwarnings("ignore", message=".*FigureCanvasAgg is non-interactive.*")
