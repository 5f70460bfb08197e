"""From finished batches to a report: one batch in memory at a time."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from captum_robust.audit.learned import Answers
from captum_robust.audit.report import AuditReport
from captum_robust.audit.results import Example, ExplanationSummary, ModelCheck
from captum_robust.audit.rows import Rows
from captum_robust.audit.settings import WHOLE, Settings
from captum_robust.audit.store import Arrays, BatchStore
from captum_robust.audit.summary import estimate
from captum_robust.audit.verdict import Rules

_LEFT, _BY_NOISE = f"attack/{WHOLE}/top_k", f"noise/{WHOLE}/top_k"
_NOT_AVERAGED = {"error", "failed", "indicators", "randomized"}


def collect(
    store: BatchStore,
    n_batches: int,
    settings: Settings,
    rules: Rules,
    refused: Mapping[str, str],
    circumstances: Mapping[str, Any],
    model_check: ModelCheck,
) -> AuditReport:
    """The report on the first batches of a store."""
    rows, correct, answers = Rows(), array("d"), Answers()
    found: dict[str, _Numbers] = {}
    pairs: dict[str, array[float]] = defaultdict(lambda: array("d"))
    for batch in store.results(n_batches):
        block = batch.rows()
        rows.add(block)
        for row in block:
            answers.add(row)
            if row["correct"] is not None:
                correct.append(row["correct"])
            for name, entry in row["explanations"].items():
                found.setdefault(name, _Numbers()).add(row["index"], entry)
            for pair, value in row.get("agreement", {}).items():
                pairs[pair].append(value)
        for picture in batch.pictures:
            name, index, _ = picture.rsplit("\n", 2)
            found[name].drawn.add(int(index))
    examples = _examples(found, store, n_batches)
    agreement = {pair: estimate(values, settings.seed) for pair, values in pairs.items()}
    return AuditReport(
        settings=settings.as_json(),
        circumstances=circumstances,
        n_examples=len(rows),
        accuracy=estimate(correct, settings.seed),
        explanations={
            name: numbers.summary(settings, rules, examples[name])
            for name, numbers in found.items()
        },
        refused=refused,
        agreement={pair: value for pair, value in agreement.items() if value is not None},
        rules=rules,
        rows=rows,
        model_check=answers.added_to(model_check),
    )


class _Numbers:
    """What was measured of one explanation, gathered example by example."""

    def __init__(self) -> None:
        self.values: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self.left: dict[int, float] = {}
        self.drawn: set[int] = set()
        # Of the examples that the attack could move: under attack, and under noise.
        self._reached, self._noise = array("d"), array("d")
        self._indicators: dict[str, float] = defaultdict(float)
        self._flagged = 0.0
        self._failed = 0
        self._errors: Counter[str] = Counter()
        self._randomized: float | None = None

    def add(self, index: int, entry: Mapping[str, Any]) -> None:
        """Take in the entry of an example."""
        if "error" in entry:
            self._errors[entry["error"]] += 1
            return
        for key, value in entry.items():
            if key not in _NOT_AVERAGED and value is not None:
                self.values[key].append(value)
        self.left[index] = entry[_LEFT]
        # An example that the attack could not touch is not an explanation that resisted.
        if entry["failed"]:
            self._failed += 1
        else:
            self._reached.append(entry[_LEFT])
            self._noise.append(entry[_BY_NOISE])
        for sign, share in entry["indicators"].items():
            self._indicators[sign] += share
        self._flagged += max(entry["indicators"].values(), default=0.0)
        if self._randomized is None:
            self._randomized = entry.get("randomized")

    def summary(
        self, settings: Settings, rules: Rules, examples: list[Example]
    ) -> ExplanationSummary:
        """Means with their spread, and the verdict."""
        n = max(1, len(self.left))
        failed = self._failed / n
        left, noise = (estimate(v, settings.seed) for v in (self._reached, self._noise))
        pairs = zip(self._noise, self._reached, strict=True)
        advantage = estimate((by_noise - left for by_noise, left in pairs), settings.seed)
        verdict, reason = rules.judge(left, noise, advantage, failed, self._flagged / n)
        values = {key: estimate(numbers, settings.seed) for key, numbers in self.values.items()}
        return ExplanationSummary(
            verdict=verdict,
            reason=reason,
            values={key: value for key, value in values.items() if value is not None},
            failed=failed,
            indicators={sign: share / n for sign, share in sorted(self._indicators.items())},
            errors=self._errors,
            randomized=self._randomized,
            examples=examples,
        )

    def shown(self) -> dict[str, int]:
        """The worst example, and of the others that were drawn the one nearest to the median."""
        if not self.drawn:
            return {}
        ordered = sorted(self.left.values())
        median = ordered[(len(ordered) - 1) // 2]
        worst = min(self.drawn, key=lambda i: (self.left[i], i))
        nearest = min(self.drawn, key=lambda i: (abs(self.left[i] - median), i == worst, i))
        return {"worst": worst, "median": nearest}


def _examples(
    found: Mapping[str, _Numbers], store: BatchStore, n_batches: int
) -> dict[str, list[Example]]:
    """The examples that the report shows of each explanation, with their pictures."""
    shown = {name: numbers.shown() for name, numbers in found.items()}
    wanted = {(name, index) for name, chosen in shown.items() for index in chosen.values()}
    pictures: dict[tuple[str, int], Arrays] = defaultdict(dict)
    for batch in store.results(n_batches):
        for picture in batch.pictures:
            name, index, what = picture.rsplit("\n", 2)
            if (name, int(index)) in wanted:
                pictures[name, int(index)][what] = batch.picture(picture)
    return {
        name: [
            Example(title, index, found[name].left[index], **pictures[name, index])
            for title, index in chosen.items()
        ]
        for name, chosen in shown.items()
    }
