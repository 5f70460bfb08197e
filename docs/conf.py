"""Sphinx settings. Everything is built from this repository: no network is needed."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import captum_robust

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "captum_robust"
author = "The captum_robust contributors"
copyright = f"2026, {author}"
release = version = captum_robust.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    # Of this repository, in _ext:
    "changelog",
    "external",
    "mathml",
]
html_math_renderer = "mathml"
templates_path = ["_templates"]
exclude_patterns = ["_build", "auto_examples/GALLERY_HEADER.rst"]
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings hold objects

# A page of the reference lists the public names of a package by purpose; autosummary makes a page
# of each from its docstring. A test checks that no name of an `__all__` is missing.
_reference = Path(__file__).parent / "reference"
autosummary_generate = [str(page) for page in sorted(_reference.glob("*.rst"))]
autosummary_imported_members = True
autodoc_default_options = {"show-inheritance": True}
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# References to names of this package must resolve; `external` links those of others.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:class", r"(?!captum_robust).*"),  # types in signatures, as they are spelled
    (
        r"py:(class|obj)",
        r"captum_robust\.(.*\.)?_\w+\..*",
    ),  # bases that users have no business with
    (r"py:(class|obj)", r"captum_robust\.\w+\.\w+\.\w+"),  # aliases and bases of the modules
    (r"py:.*", r"(numpy|torchvision)(\..*)?"),
]

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"

html_theme = "furo"
html_title = f"captum_robust {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]

# The quick scripts run while the documentation is built. The others train a network, need the
# `demo` extra or take minutes: their pages show a stored picture.
sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["auto_examples"],
    "filename_pattern": r"[/\\](quickstart|robust_network|attacks_in_captum|certified_explanation)"
    r"\.py$",
    "ignore_pattern": r"([/\\]reproduce[/\\]|__init__\.py)",
    "nested_sections": False,
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 3600,  # times depend on the machine
    "write_computation_times": False,
    "plot_gallery": "True",
    "within_subsection_order": "ExampleTitleSortKey",
}

# Figures are collected by sphinx-gallery; showing them is not a fault.
warnings.filterwarnings("ignore", message=".*FigureCanvasAgg is non-interactive.*")

# A stub of a name that was renamed since the last build would be a page without a name.
_listed = "\n".join(page.read_text(encoding="utf-8") for page in _reference.glob("*.rst"))
for _stub in _reference.glob("generated/*.rst"):
    if f"   {_stub.stem.rpartition('.')[2]}\n" not in _listed:
        _stub.unlink()


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what says nothing: fields of a named tuple that have no docstring of their own."""
    if str(getattr(obj, "__doc__", "")).startswith("Alias for field number"):
        return True
    return None


def setup(app: Any) -> None:
    """Connect the handler above."""
    app.connect("autodoc-skip-member", _skip)
