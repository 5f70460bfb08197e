"""From finished batches to a report: one batch in memory at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from captum_robust.audit.report import AuditReport
from captum_robust.audit.results import Example, ExplanationSummary
from captum_robust.audit.settings import FRACTIONS, Settings
from captum_robust.audit.store import Arrays, BatchStore
from captum_robust.audit.summary import estimate
from captum_robust.audit.verdict import Rules

_LEFT = f"attack/{FRACTIONS[-1]}/top_k"
_NOT_AVERAGED = {"error", "failed", "indicators", "randomized"}


def collect(
    store: BatchStore,
    settings: Settings,
    rules: Rules,
    refused: Mapping[str, str],
    circumstances: Mapping[str, Any],
) -> AuditReport:
    """The report on all finished batches of a store."""
    rows = [row for result in store.results() for row in result.rows]
    names = list(rows[0]["explanations"])
    found = {name: _summary(name, rows, store, settings, rules) for name in names}
    correct = [row["correct"] for row in rows if row["correct"] is not None]
    pairs: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for pair, value in row.get("agreement", {}).items():
            pairs[pair].append(value)
    agreement = {pair: estimate(values, settings.seed) for pair, values in pairs.items()}
    return AuditReport(
        settings=settings.as_json(),
        circumstances=circumstances,
        n_examples=len(rows),
        accuracy=estimate(map(float, correct), settings.seed),
        explanations=found,
        refused=refused,
        agreement={pair: value for pair, value in agreement.items() if value is not None},
        rules=rules,
        rows=rows,
    )


def _summary(
    name: str,
    rows: list[dict[str, Any]],
    store: BatchStore,
    settings: Settings,
    rules: Rules,
) -> ExplanationSummary:
    entries = [row["explanations"][name] for row in rows]
    measured = [entry for entry in entries if "error" not in entry]
    keys = {key: None for entry in measured for key in entry if key not in _NOT_AVERAGED}
    values = {
        key: value
        for key in keys
        if (value := estimate((entry.get(key) for entry in measured), settings.seed)) is not None
    }
    # An example that the attack could not touch is not an explanation that resisted.
    reached = [entry[_LEFT] for entry in measured if not entry["failed"]]
    indicators: dict[str, float] = defaultdict(float)
    for entry in measured:
        for sign, share in entry["indicators"].items():
            indicators[sign] += share
    n = max(1, len(measured))
    failed = sum(entry["failed"] for entry in measured) / n
    flagged = sum(max(entry["indicators"].values(), default=0.0) for entry in measured) / n
    verdict, reason = rules.judge(estimate(reached, settings.seed), failed, flagged)
    randomized = [entry["randomized"] for entry in measured if "randomized" in entry]
    return ExplanationSummary(
        verdict=verdict,
        reason=reason,
        values=values,
        failed=failed,
        indicators={sign: share / n for sign, share in sorted(indicators.items())},
        errors=Counter(entry["error"] for entry in entries if "error" in entry),
        randomized=randomized[0] if randomized else None,
        examples=_examples(name, rows, store),
    )


def _examples(name: str, rows: list[dict[str, Any]], store: BatchStore) -> list[Example]:
    """The worst example, and among those that were kept the one nearest to the median."""
    left = {
        row["index"]: entry[_LEFT]
        for row in rows
        if "error" not in (entry := row["explanations"][name])
    }
    if not left:
        return []
    ordered = sorted(left.values())
    median = ordered[(len(ordered) - 1) // 2]
    wanted = {
        "worst": lambda index: (left[index], index),
        "median": lambda index: (abs(left[index] - median), index),
    }
    best: dict[str, tuple[Any, int, Arrays]] = {}
    for result in store.results():
        for index, pictures in _kept(name, result.arrays).items():
            for title, rank in wanted.items():
                place = rank(index)
                if title not in best or place < best[title][0]:
                    best[title] = (place, index, pictures)
    return [
        Example(
            title=title, index=index, left=left[index], input=pictures["input"],
            moved=pictures["moved"], before=pictures["before"], after=pictures["after"],
        )
        for title, (_, index, pictures) in best.items()
    ]  # fmt: skip


def _kept(name: str, arrays: Arrays) -> dict[int, Arrays]:
    """The pictures of a batch by the number of the example."""
    found: dict[int, Arrays] = defaultdict(dict)
    for key, values in arrays.items():
        owner, index, what = key.rsplit("\n", 2)
        if owner == name:
            found[int(index)][what] = values
    return dict(found)
