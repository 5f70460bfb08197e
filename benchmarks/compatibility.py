"""Which network works with what: every cell is checked against plain PyTorch.

    python benchmarks/compatibility.py [--out docs/compatibility.rst] [--only NAME ...]

Needs timm and transformers beside the package; takes about ten minutes on one core. A cell is
"yes" where the result passes its check to 1e-5, else the first words of the error.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from _architectures import ARCHITECTURES, Case
from _checks import COLUMNS

_HEAD = """\
Compatibility
=============

See whether your kind of network works with what you want to use: {networks} networks, and
{share:.0%} of the cells are "yes". A yes means that the result was compared with plain PyTorch and
agreed to 1e-5 of its largest value. A number stands for the error that you get, which is below the
table with what to do. The networks are small, have random weights (seed 0) and are in evaluation
mode; torch 2.14.

.. code-block:: bash

   pip install timm transformers
   python benchmarks/compatibility.py --out docs/compatibility.rst

What is compared: the smoothed gradient with that of a network with softplus for rectifiers, and
``differentiable`` with the double backpropagation of that network; LRP (by the epsilon rule) with
gradient times input of a network of the same values; guided backpropagation with hooks on every
rectifier; the relevance that ``GhorbaniTopK`` reports with that of the gradient, and its prediction
and bound with the model's own; ``Square`` with the normal equations of all squares of one size
(tables have no squares: there, of all features); infidelity with its formula; and one step of ATEX
with the derivative of its loss.
"""


def cell(check: Callable[[Case], None], case: Case) -> str:
    """What stands in the table for one network and one check."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as: no rectifier to smooth
            check(replace(case, model=copy.deepcopy(case.model)))
    except Exception as error:  # every error is a cell of the table
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "yes"


def page(rows: dict[str, dict[str, str]]) -> str:
    """The page of the documentation."""
    cells = [text for row in rows.values() for text in row.values()]
    share = sum(text == "yes" for text in cells) / len(cells)
    lines = [
        _HEAD.format(networks=len(rows), share=share),
        ".. list-table::", "   :header-rows: 1", "   :class: compatibility", "",
        "   * - Network",
        *(f"     - {column}" for column in COLUMNS),
    ]  # fmt: skip
    notes: list[str] = []
    for name, row in rows.items():
        lines.append(f"   * - {name}")
        for text in row.values():
            if text != "yes" and text not in notes:
                notes.append(text)
            lines.append(f"     - {'yes' if text == 'yes' else f'[{notes.index(text) + 1}]'}")
    if notes:
        lines += ["", "The errors", "----------"]
    for i, text in enumerate(notes):
        kind, _, words = text.partition(": ")
        lines += ["", f"[{i + 1}] ``{kind}``", "", *_quoted(words)]
    return "\n".join(lines) + "\n"


def _quoted(words: str) -> list[str]:
    """A literal block, its lines broken at words."""
    lines = ["   "]
    for word in words.split():
        if len(lines[-1]) + len(word) > 98:
            lines.append("   ")
        lines[-1] += f"{word} "
    return [".. code-block:: text", "", *(line.rstrip() for line in lines)]


def main() -> None:
    """Fill the table, or what is missing of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="page of the documentation")
    parser.add_argument("--only", nargs="*", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--columns", nargs="*", choices=COLUMNS, default=list(COLUMNS))
    parser.add_argument("--cells", type=Path, help="JSON of finished cells, to go on from")
    options = parser.parse_args()
    known = options.cells is not None and options.cells.is_file()
    rows: dict[str, dict[str, str]] = json.loads(options.cells.read_text()) if known else {}
    for name in options.only:
        row = rows.setdefault(name, {})
        missing = [column for column in options.columns if column not in row]
        if not missing:
            continue
        started = time.monotonic()
        torch.manual_seed(0)  # of the weights
        case = ARCHITECTURES[name]()
        row.update({column: cell(COLUMNS[column], case) for column in missing})
        wrong = {column: text[:200] for column, text in row.items() if text != "yes"}
        print(f"{name} ({time.monotonic() - started:.0f} s): {wrong or 'all yes'}", flush=True)
        if options.cells is not None:
            options.cells.write_text(json.dumps(rows))
    ordered = {
        name: {column: rows[name][column] for column in COLUMNS if column in rows[name]}
        for name in ARCHITECTURES
        if name in rows
    }
    if options.out is not None:
        options.out.write_text(page(ordered))
    sys.exit(any("AssertionError" in text for row in rows.values() for text in row.values()))


if __name__ == "__main__":
    main()
