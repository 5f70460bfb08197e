"""The page ``changelog`` is made from CHANGELOG.md, so that it is written once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

_UNDERLINES = {1: "=", 2: "-", 3: "~"}


def to_rst(markdown: str) -> str:
    """The few marks that a changelog needs: headings, links, and code."""
    lines = []
    for line in markdown.splitlines():
        line = re.sub(r"`([^`]+)`", r"``\1``", line)
        line = re.sub(r"\[([^]]+)\]\((https?://[^)]+)\)", r"`\1 <\2>`__", line)
        heading = re.match(r"(#+) (.*)", line)
        if heading:
            title = heading[2]
            lines += [title, _UNDERLINES[len(heading[1])] * len(title)]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the page by the file."""
    if docname == "changelog":
        file = Path(app.srcdir).parent / "CHANGELOG.md"
        app.env.note_dependency(str(file))
        source[0] = to_rst(file.read_text(encoding="utf-8"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen to pages as they are read."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
