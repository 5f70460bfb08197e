"""Tables in the format of the documentation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor


def table(rows: Iterable[list[str]], title: str = "", file: Path | None = None) -> None:
    """Print a table, its first row the head; append it to ``file`` too, which must be a text."""
    texts = list(rows)
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in texts]
    words = [title, ""] if title else []
    text = "\n".join([*words, rule, lines[0], rule, *lines[1:], rule])
    print(f"\n{text}", flush=True)
    if file is not None:
        with file.open("a") as stream:
            stream.write(f"{text}\n\n")


def new_file(folder: Path, name: str) -> Path:
    """An empty file; the folder is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("")
    return path


def mean_and_error(values: Tensor) -> str:
    """Mean and standard error over examples, "0.123 ± 0.004"."""
    if len(values) < 2:
        return f"{values.mean():.3g}"
    return f"{values.mean():.3g} ± {values.std() / len(values) ** 0.5:.2g}"
