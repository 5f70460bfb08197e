"""What an audit found: numbers with their spread, verdicts, and ways to hand them on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from captum_robust.audit.settings import FRACTIONS
from captum_robust.audit.summary import Estimate
from captum_robust.audit.verdict import Rules, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

SCHEMA = "captum_robust.audit/1"
"""Name and version of the form that :meth:`AuditReport.to_json` writes."""


@dataclass(frozen=True)
class Example:
    """An example of an explanation before and after the attack.

    Attributes:
        title: Why it is shown: "worst" or "median".
        index: Its number in the data.
        left: Share of the top k that is left.
        input: The input, as the loader gave it.
        moved: The manipulated input.
        before: Relevance map of the input.
        after: Relevance map of the manipulated input.
    """

    title: str
    index: int
    left: float
    input: npt.NDArray[np.float32]
    moved: npt.NDArray[np.float32]
    before: npt.NDArray[np.float32]
    after: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExplanationSummary:
    """What was measured of one explanation.

    Attributes:
        verdict: The conclusion.
        reason: Why.
        values: Estimates by name: "attack/0.5/top_k" is the share of the top k that is left under
            an attack of half of eps, "noise/..." under random noise of this size, "certified/0.1"
            what no change of Euclidean norm 0.1 can take away; "infidelity", "flipping",
            "sensitivity".
        failed: Share of examples for which the attack found no allowed change.
        indicators: For each indicator of a failed attack the share of examples with it.
        errors: Messages of examples that could not be explained, with their number.
        randomized: Rank correlation with the explanations of the model with random parameters.
        examples: The worst and the median example.
    """

    verdict: Verdict
    reason: str
    values: Mapping[str, Estimate]
    failed: float
    indicators: Mapping[str, float]
    errors: Mapping[str, int]
    randomized: float | None
    examples: Sequence[Example] = field(default=(), compare=False, repr=False)

    def left(self, kind: str = "attack", measure: str = "top_k") -> list[tuple[float, Estimate]]:
        """What is left at each share of eps."""
        keys = [(fraction, f"{kind}/{fraction}/{measure}") for fraction in FRACTIONS]
        return [(fraction, self.values[key]) for fraction, key in keys if key in self.values]

    def certified(self) -> list[tuple[float, Estimate]]:
        """What no change within each Euclidean radius can take away."""
        radii = [float(key.split("/")[1]) for key in self.values if key.startswith("certified/")]
        return [(radius, self.values[f"certified/{radius}"]) for radius in sorted(radii)]


@dataclass(frozen=True)
class AuditReport:
    """The result of :func:`audit`.

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
    """

    settings: Mapping[str, Any]
    circumstances: Mapping[str, Any]
    n_examples: int
    accuracy: Estimate | None
    explanations: Mapping[str, ExplanationSummary]
    refused: Mapping[str, str]
    agreement: Mapping[str, Estimate]
    rules: Rules
    rows: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

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
                    "attacked": means.get(f"attack/{FRACTIONS[-1]}/top_k"),
                    "noise": means.get(f"noise/{FRACTIONS[-1]}/top_k"),
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
            "rows": [dict(row) for row in self.rows],
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, whole or not at all."""
        write_text(path, json.dumps(self.as_json(), indent=1, allow_nan=False))

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
        explanations = {
            name: ExplanationSummary(
                verdict=Verdict(found["verdict"]),
                reason=found["reason"],
                values={key: Estimate(**value) for key, value in found["values"].items()},
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

    def summary(self) -> list[str]:
        """The conclusion in at most three sentences."""
        by_verdict: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
        for name, found in self.explanations.items():
            by_verdict[found.verdict].append(name)
        hard, easy, unknown = (
            by_verdict[v] for v in (Verdict.HARD, Verdict.EASY, Verdict.UNRELIABLE)
        )
        total = len(self.explanations)
        sentences = []
        if easy:
            sentences.append(
                f"{len(easy)} of {total} explanations can be manipulated by small changes of the "
                f"input that leave the prediction as it is: {_listed(easy)}."
            )
        if hard:
            sentences.append(
                f"{len(hard)} of {total} withstood the strongest attack: {_listed(hard)}."
            )
        if unknown:
            sentences.append(
                f"{len(unknown)} of {total} could not be measured reliably: {_listed(unknown)}."
            )
        return sentences or ["No explanation could be measured."]

    def _repr_html_(self) -> str:
        from captum_robust.audit.render import table_html

        return table_html(self)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file, whole or not at all."""
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
