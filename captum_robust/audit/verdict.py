"""Three verdicts on an explanation, by rules that the report prints and the caller can change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
    """When an explanation counts as hard to manipulate, and a model as one to look at.

    Args:
        kept: Least share of the top k that must be left under the strongest attack: the lower end
            of its interval is compared.
        advantage: Share of the top k that the attack must take off beyond what random noise of the
            same size takes off the same examples: the lower end of its interval must be above.
        failed: Largest share of examples for which the attack found no allowed change that moves
            the explanation.
        flagged: Largest share of examples with an indicator of a failed attack.
        examples: Least number of examples.
        suspicious: The model counts as suspicious where the p-value of its check is below.
        chance: The model counts as right by chance where the p-value of its accuracy is above.
        undecided: The model counts as undecided where the mean entropy of its probabilities, as a
            share of the largest possible one, is above.

    Example:
        >>> from captum_robust.audit import Rules
        >>> from captum_robust.audit.summary import Estimate
        >>> left, noise = Estimate(0.2, 0.15, 0.25, 100), Estimate(0.8, 0.75, 0.85, 100)
        >>> verdict, _ = Rules().judge(left, noise, Estimate(0.6, 0.5, 0.7, 100), 0.0, 0.0)
        >>> verdict.value
        'can be manipulated'
    """

    kept: float = 0.7
    advantage: float = 0.0
    failed: float = 0.1
    flagged: float = 0.1
    examples: int = 5
    suspicious: float = 0.01
    chance: float = 0.05
    undecided: float = 0.9

    def __post_init__(self) -> None:
        check_finite(**asdict(self))

    def judge(
        self,
        left: Estimate | None,
        noise: Estimate | None,
        advantage: Estimate | None,
        failed: float,
        flagged: float,
    ) -> tuple[Verdict, str]:
        """The verdict and the reason for it.

        Args:
            left: Share of the top k that is left under attack, of the examples that it could move.
            noise: The same under random noise of the same size, of the same examples.
            advantage: By how much more noise leaves than the attack, example by example.
            failed: Share of examples for which the attack found no such change.
            flagged: Share of examples with an indicator of a failed attack.
        """
        if left is None or noise is None or advantage is None:
            return Verdict.UNRELIABLE, "no example could be measured"
        where = "in place, in the examples that it could move" if failed else "in place"
        found = f"the attack leaves {left.mean:.0%} of the most relevant features {where}"
        besides = f"random noise of the same size leaves {noise.mean:.0%}"
        is_better = advantage.low > self.advantage
        # What succeeded is a fact, also where a stronger attack may exist.
        if left.high < self.kept and is_better:
            return Verdict.EASY, f"{found}, {besides}, and at least {self.kept:.0%} are asked for"
        if left.high < self.kept and noise.high < self.kept:
            return Verdict.EASY, (
                f"{besides}, and at least {self.kept:.0%} are asked for: it takes no attacker, "
                f"since the explanation is unstable by itself ({found})"
            )
        if left.n < self.examples:
            return Verdict.UNRELIABLE, f"{left.n} examples, and {self.examples} are asked for"
        doubts = self._doubts(failed, flagged)
        if doubts is None and not is_better:
            doubts = (
                f"{found}, and {besides}: the attack does not clearly do more than chance, which "
                "can be its weakness as well as the explanation's strength"
            )
        if doubts is not None:
            return Verdict.UNRELIABLE, doubts
        if left.low >= self.kept:
            return Verdict.HARD, f"{found}, at least {left.low:.0%} with 95 % confidence"
        return Verdict.UNRELIABLE, (
            f"{found}, between {left.low:.0%} and {left.high:.0%} with 95 % confidence, too close "
            f"to the {self.kept:.0%} that are asked for: take more examples"
        )

    def _doubts(self, failed: float, flagged: float) -> str | None:
        """Why the attack itself is not to be trusted."""
        if failed > self.failed:
            return (
                f"for {failed:.0%} of the examples the attack found no change that moves the "
                "explanation and keeps the prediction, which can be its weakness as well as the "
                "explanation's strength"
            )
        if flagged > self.flagged:
            return (
                f"for {flagged:.0%} of the examples an indicator says that the attack did not work"
            )
        return None

    def sentences(self) -> list[str]:
        """The rules as a report prints them."""
        beyond = f" by more than {self.advantage:.0%}" if self.advantage else ""
        easy = (
            f"Can be manipulated: less than {self.kept:.0%} of the most relevant features are left "
            "under attack, by the upper end of the 95 % interval over the examples that the attack "
            f"could move; and the attack takes off more than random noise of the same size{beyond},"
            f" by the lower end of the interval of the difference, or noise alone leaves less than "
            f"{self.kept:.0%}, too."
        )
        unreliable = (
            f"Else not measured reliably: fewer than {self.examples} examples; or for more than "
            f"{self.failed:.0%} of them the attack found no allowed change that moves the "
            "explanation; or for more than "
            f"{self.flagged:.0%} of them an indicator says that the attack did not work; or it "
            "does not clearly do more than noise."
        )
        hard = (
            f"Else hard to manipulate: at least {self.kept:.0%} are left, by the lower end of the "
            f"interval. Else the interval holds {self.kept:.0%}: not measured reliably."
        )
        model = (
            f"The model is suspicious: the p-value of its check is below {self.suspicious:g}. It "
            "may not have learned its task: it is right no more often than by guessing each class "
            f"as often as it does (binomial test, p above {self.chance:g}); or the entropy of its "
            f"probabilities is above {self.undecided:.0%} of the largest possible one."
        )
        return [easy, unreliable, hard, model]
