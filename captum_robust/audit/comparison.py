"""Two audits beside each other: before and after a training, or two models."""

from __future__ import annotations

from dataclasses import dataclass

from captum_robust.audit.report import AuditReport
from captum_robust.audit.settings import WHOLE

_LEFT = f"attack/{WHOLE}/top_k"


@dataclass(frozen=True)
class Change:
    """One explanation in two audits.

    Attributes:
        explanation: Its name.
        before: Share of the top k that is left under attack, in the first.
        after: The same in the second.
        verdicts: Both verdicts.
    """

    explanation: str
    before: float
    after: float
    verdicts: tuple[str, str]

    @property
    def gain(self) -> float:
        """By how much more is left in the second."""
        return self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes:
        changes: For each explanation that both audits have.
        only_before: Names of the first alone.
        only_after: Names of the second alone.
        differences: Settings that differ, which may make the numbers incomparable.
    """

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    differences: tuple[str, ...]

    def worst_loss(self) -> float:
        """The largest loss of what is left under attack, 0 where there is none."""
        return max([0.0, *(-change.gain for change in self.changes)])

    def lines(self) -> list[str]:
        """The comparison as lines of text."""
        width = max([len("explanation"), *(len(c.explanation) for c in self.changes)])
        lines = [f"{'explanation':{width}}  before   after    gain  verdict"]
        for c in self.changes:
            verdict = " -> ".join(dict.fromkeys(c.verdicts))
            numbers = f"{c.before:6.3f}  {c.after:6.3f}  {c.gain:+.3f}"
            lines.append(f"{c.explanation:{width}}  {numbers}  {verdict}")
        lines += [f"{name}: in the first alone" for name in self.only_before]
        lines += [f"{name}: in the second alone" for name in self.only_after]
        lines += [f"settings differ: {name}" for name in self.differences]
        return lines


def compare(before: AuditReport, after: AuditReport) -> Comparison:
    """Put two audits beside each other, explanation by explanation.

    Raises:
        ValueError: They have no explanation in common.
    """
    names = [name for name in before.explanations if name in after.explanations]
    changes = []
    for name in names:
        a, b = before.explanations[name], after.explanations[name]
        if _LEFT in a.values and _LEFT in b.values:
            verdicts = (a.verdict.value, b.verdict.value)
            changes.append(Change(name, a.values[_LEFT].mean, b.values[_LEFT].mean, verdicts))
    if not changes:
        raise ValueError("the two audits have no explanation in common that was measured in both.")
    keys = sorted(set(before.settings) | set(after.settings))
    return Comparison(
        tuple(changes),
        tuple(name for name in before.explanations if name not in after.explanations),
        tuple(name for name in after.explanations if name not in before.explanations),
        tuple(k for k in keys if before.settings.get(k) != after.settings.get(k)),
    )
