"""What an audit found: numbers with their spread, verdicts, and ways to hand them on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from captum_robust.audit.results import ExplanationSummary, Findings, ModelCheck
from captum_robust.audit.settings import WHOLE
from captum_robust.audit.summary import Estimate
from captum_robust.audit.verdict import Rules, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

SCHEMA = "captum_robust.audit/1"
"""Name and version of the form that :meth:`AuditReport.to_json` writes."""


class AuditReport(Findings):
    """The result of :func:`audit`: its findings, and ways to hand them on.

    Attributes:
        settings: What the numbers follow from, as JSON has it.
        circumstances: Versions, hardware, time: what a repetition may do differently.
        n_examples: Number of examples.
        accuracy: Of the model, where labels came.
        explanations: A summary by name.
        refused: Why the model does not admit an explanation, by name.
        agreement: Rank correlation of the maps of two explanations, by "name / name".
        rules: What the verdicts follow from.
        rows: A dictionary for each example.
        model_check: Whether the model behaves off its data as on them.
    """

    def table(self) -> list[dict[str, Any]] | DataFrame:
        """A row for each explanation: a pandas ``DataFrame`` where pandas is installed, else dicts.

        Returns:
            Columns ``explanation, verdict, attacked, noise, certified, infidelity, flipping,
            flipping_random, sensitivity, randomized, failed``; means over the examples.
        """
        rows = []
        for name, found in self.explanations.items():
            means = {key: value.mean for key, value in found.values.items()}
            certified = found.certified()
            rows.append(
                {
                    "explanation": name,
                    "verdict": found.verdict.value,
                    "attacked": means.get(f"attack/{WHOLE}/top_k"),
                    "noise": means.get(f"noise/{WHOLE}/top_k"),
                    "certified": certified[0][1].mean if certified else None,
                    **{
                        key: means.get(key)
                        for key in ("infidelity", "flipping", "flipping_random", "sensitivity")
                    },
                    "randomized": found.randomized,
                    "failed": found.failed,
                }
            )
        try:
            import pandas as pd
        except ImportError:
            return rows
        return pd.DataFrame(rows)

    def as_json(self) -> dict[str, Any]:
        """The report as dictionaries, lists, numbers and texts; pictures are left out."""
        return {**self._without_rows(), "rows": [dict(row) for row in self.rows]}

    def _without_rows(self) -> dict[str, Any]:
        explanations = {}
        for name, found in self.explanations.items():
            explanations[name] = {
                "verdict": found.verdict.value,
                "reason": found.reason,
                "values": {key: asdict(value) for key, value in found.values.items()},
                "failed": found.failed,
                "indicators": dict(found.indicators),
                "errors": dict(found.errors),
                "randomized": found.randomized,
                "examples": [
                    {"title": e.title, "index": e.index, "left": e.left} for e in found.examples
                ],
            }
        return {
            "schema": SCHEMA,
            "settings": dict(self.settings),
            "circumstances": dict(self.circumstances),
            "n_examples": self.n_examples,
            "accuracy": None if self.accuracy is None else asdict(self.accuracy),
            "explanations": explanations,
            "refused": dict(self.refused),
            "agreement": {pair: asdict(value) for pair, value in self.agreement.items()},
            "rules": asdict(self.rules),
            "model_check": asdict(self.model_check),
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, whole or not at all."""
        head = json.dumps(self._without_rows(), indent=1, allow_nan=False).removesuffix("\n}")
        with _whole(path) as file:
            # Row by row: the text of all of them need not fit into memory.
            file.write(f'{head},\n "rows": [')
            for number, row in enumerate(self.rows):
                file.write((",\n  " if number else "\n  ") + json.dumps(row, allow_nan=False))
            file.write("\n ]\n}\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> AuditReport:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: The file is not such a report, or of another version.
        """
        try:
            known = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a JSON file: {error}") from None
        schema = known.get("schema") if isinstance(known, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"{path} is not an audit report of version {SCHEMA}, got {schema!r}.")
        try:
            return cls._of_json(known)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a whole audit report: {type(error).__name__}: {error}."
            ) from error

    @classmethod
    def _of_json(cls, known: dict[str, Any]) -> AuditReport:
        explanations = {
            name: ExplanationSummary(
                verdict=Verdict(found["verdict"]),
                reason=found["reason"],
                values={key: _estimate(value) for key, value in found["values"].items()},
                failed=found["failed"],
                indicators=found["indicators"],
                errors=found["errors"],
                randomized=found["randomized"],
            )
            for name, found in known["explanations"].items()
        }
        accuracy = known["accuracy"]
        return cls(
            settings=known["settings"],
            circumstances=known["circumstances"],
            n_examples=known["n_examples"],
            accuracy=None if accuracy is None else Estimate(**accuracy),
            explanations=explanations,
            refused=known["refused"],
            agreement={pair: Estimate(**value) for pair, value in known["agreement"].items()},
            rules=Rules(**known["rules"]),
            rows=known["rows"],
            model_check=ModelCheck(**known["model_check"]),
        )

    def to_html(self, path: str | os.PathLike[str], title: str = "Audit of explanations") -> None:
        """Write the report as one HTML file that needs nothing from outside.

        Args:
            path: Where.
            title: The heading.
        """
        from captum_robust.audit.render import render

        write_text(path, render(self, title))

    def figure(self) -> Figure:
        """What is left under attack against the size of the change, as a matplotlib ``Figure``."""
        from captum_robust.audit.pictures import curves

        return curves(self)

    def _repr_html_(self) -> str:
        from captum_robust.audit.render import table_html

        return table_html(self)


def _estimate(known: dict[str, Any]) -> Estimate:
    if any(isinstance(number, str) for number in known.values()):
        raise TypeError(f"{known} holds text where numbers belong")
    return Estimate(**known)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file, whole or not at all."""
    with _whole(path) as file:
        file.write(text)


@contextmanager
def _whole(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """A file that gets its name when it is complete."""
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            yield file
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
