"""Three verdicts on an explanation, by rules that the report prints and the caller can change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from captum_robust._utils.checks import check_finite
from captum_robust.audit.summary import Estimate


class Verdict(str, Enum):
    """What an audit concludes about an explanation of a model."""

    HARD = "hard to manipulate"
    EASY = "can be manipulated"
    UNRELIABLE = "not measured reliably"


@dataclass(frozen=True)
class Rules:
    """When an explanation counts as hard to manipulate.

    Args:
        kept: Least share of the top k that must be left under the strongest attack: the lower end
            of its interval is compared.
        failed: Largest share of examples for which the attack found no allowed change that moves
            the explanation.
        flagged: Largest share of examples with an indicator of a failed attack.
        examples: Least number of examples.
        suspicious: The model counts as suspicious where the p-value of its check is below.

    Example:
        >>> from captum_robust.audit import Rules
        >>> from captum_robust.audit.summary import Estimate
        >>> verdict, reason = Rules().judge(Estimate(0.2, 0.15, 0.25, 100), 0.0, 0.0)
        >>> verdict.value
        'can be manipulated'
    """

    kept: float = 0.7
    failed: float = 0.1
    flagged: float = 0.1
    examples: int = 5
    suspicious: float = 0.01

    def __post_init__(self) -> None:
        check_finite(kept=self.kept, failed=self.failed, flagged=self.flagged)
        check_finite(suspicious=self.suspicious)

    def judge(self, left: Estimate | None, failed: float, flagged: float) -> tuple[Verdict, str]:
        """The verdict and the reason for it.

        Args:
            left: Share of the top k that is left under attack.
            failed: Share of examples for which the attack found no such change.
            flagged: Share of examples with an indicator of a failed attack.
        """
        if left is None:
            return Verdict.UNRELIABLE, "no example could be measured"
        where = "in place, in the examples that it could move" if failed else "in place"
        if left.high < self.kept:
            # An attack that succeeded is a fact, also where a stronger one may exist.
            return Verdict.EASY, (
                f"the attack leaves {left.mean:.0%} of the most relevant features {where}, "
                f"and {self.kept:.0%} are asked for"
            )
        if left.n < self.examples:
            return Verdict.UNRELIABLE, f"{left.n} examples, and {self.examples} are asked for"
        if failed > self.failed:
            return Verdict.UNRELIABLE, (
                f"for {failed:.0%} of the examples the attack found no change that moves the "
                "explanation and keeps the prediction, which can be its weakness as well as the "
                "explanation's strength"
            )
        if flagged > self.flagged:
            return Verdict.UNRELIABLE, (
                f"for {flagged:.0%} of the examples an indicator says that the attack did not work"
            )
        if left.low >= self.kept:
            return Verdict.HARD, (
                f"the strongest attack leaves {left.mean:.0%} of the most relevant features "
                f"{where}, at least {left.low:.0%} with 95 % confidence"
            )
        return Verdict.EASY, (
            f"the attack leaves {left.mean:.0%} of the most relevant features {where}, too close "
            f"to the {self.kept:.0%} that are asked for to call it hard"
        )

    def sentences(self) -> list[str]:
        """The rules as a report prints them."""
        easy = (
            f"Can be manipulated: less than {self.kept:.0%} of the most relevant features are left "
            "under attack, by the upper end of the 95 % interval over the examples that the attack "
            "could move. An attack that succeeded settles it."
        )
        unreliable = (
            f"Else not measured reliably: fewer than {self.examples} examples; or for more than "
            f"{self.failed:.0%} of them the attack found no allowed change that moves the "
            "explanation; or for more than "
            f"{self.flagged:.0%} of them an indicator says that the attack did not work."
        )
        hard = (
            f"Else hard to manipulate: at least {self.kept:.0%} are left, by the lower end of the "
            "interval. Else it can be manipulated, since it is too close to call."
        )
        model = f"The model is suspicious: the p-value of its check is below {self.suspicious:g}."
        return [easy, unreliable, hard, model]
