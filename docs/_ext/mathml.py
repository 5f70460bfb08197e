r"""Formulas as MathML, which browsers draw by themselves: no script, no network.

The converter is that of docutils. What it does not know by the name that people write is spelled
in its own way first; a command that it does not know at all is a warning, which fails a build with
``-W``.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

_SPELLED = (
    (re.compile(r"\\dots\b"), r"\\ldots"),
    (re.compile(r"\\(big|Big)(?=[(\[{]|\\\{|\\lVert|\\lvert)"), r"\\\1l"),
    (re.compile(r"\\(big|Big)(?=[)\]}]|\\\}|\\rVert|\\rvert)"), r"\\\1r"),
    (re.compile(r"\\textstyle\s*"), ""),
)
_log = logging.getLogger(__name__)


def mathml(formula: str, node: nodes.Element, *, block: bool) -> str:
    """The formula as an element ``<math>``; one that cannot be converted is a warning."""
    for pattern, spelling in _SPELLED:
        formula = pattern.sub(spelling, formula)
    try:
        return latex2mathml.tex2mathml(formula.strip(), as_block=block)
    except (MathError, ValueError) as error:
        _log.warning("formula %r: %s", formula, error, location=node)
        return f"<code>{formula}</code>"


def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula within the text."""
    self.body.append(mathml(node.astext(), node, block=False))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """Write a formula of its own line, with its number if it has one."""
    self.body.append(self.starttag(node, "div", CLASS="formula"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(mathml(node.astext(), node, block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
