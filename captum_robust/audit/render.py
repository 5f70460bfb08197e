"""The report as one HTML file that needs nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from captum_robust.audit.change import allowed, enclosed, largest
from captum_robust.audit.pictures import HEIGHT, MARGIN, WIDTH, bars_of, curve_points, pictures_of
from captum_robust.audit.results import Findings
from captum_robust.audit.settings import WHOLE
from captum_robust.audit.verdict import Verdict

_CLASSES = {Verdict.HARD: "hard", Verdict.EASY: "easy", Verdict.UNRELIABLE: "unreliable"}


def render(report: Findings, title: str) -> str:
    """The whole page."""
    style, script = _resource("report.css"), _resource("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return _template("report.html").render(
        title=title, policy=policy, style=style, script=script,
        report=report, classes=_CLASSES,
        sections=[_section(name, report) for name in report.explanations],
        main=WHOLE, settings=json.dumps(report.settings, indent=1),
        circumstances=json.dumps(report.circumstances, indent=1),
        eps=largest(report.settings), allowed=allowed(report.settings),
        moved_none=any(found.failed for found in report.explanations.values()),
        svg={"width": WIDTH, "height": HEIGHT, "margin": MARGIN},
    )  # fmt: skip


def table_html(report: Findings) -> str:
    """The table of explanations alone, for notebooks."""
    return _template("table.html").render(report=report, classes=_CLASSES, main=WHOLE)


def _section(name: str, report: Findings) -> dict[str, Any]:
    found = report.explanations[name]
    names = report.settings.get("feature_names")
    return {
        "name": name,
        "found": found,
        "curves": curve_points(found, report.settings),
        "radii": {enclosed(report.settings, radius): radius for radius, _ in found.certified()},
        "examples": [
            {
                "of": example,
                "pictures": pictures_of(example, example.title),
                "bars": bars_of(example, names),
            }
            for example in found.examples
        ],
    }


def _template(name: str) -> Template:
    environment = Environment(
        loader=FunctionLoader(_resource), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["enclosed"] = enclosed
    environment.filters["percent"] = lambda share: f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
    return environment.get_template(name)


def _resource(name: str) -> str:
    return (files("captum_robust.audit") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
