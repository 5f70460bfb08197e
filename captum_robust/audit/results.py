"""The data of a report: what was measured of each explanation, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from captum_robust.audit.summary import Estimate
from captum_robust.audit.verdict import Rules, Verdict


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
        failed: Share of examples for which the attack found no allowed change that moves the
            explanation.
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
        parts = [key.split("/") for key in self.values]
        sizes = [float(p[1]) for p in parts if (p[0], p[-1]) == (kind, measure)]
        return [(size, self.values[f"{kind}/{size}/{measure}"]) for size in sorted(sizes)]

    def certified(self) -> list[tuple[float, Estimate]]:
        """What no change within each Euclidean radius can take away."""
        radii = [float(key.split("/")[1]) for key in self.values if key.startswith("certified/")]
        return [(radius, self.values[f"certified/{radius}"]) for radius in sorted(radii)]

    def cautions(self) -> list[str]:
        """What speaks against the explanation though no attack is needed; mostly empty."""
        found = []
        for key, what in _AGAINST_RANDOM.items():
            if key in self.values and key + "_random" in self.values:
                own, random = self.values[key].mean, self.values[key + "_random"].mean
                if own >= random:
                    found.append(f"{what} ({key} {own:.3g}, of a random order {random:.3g}).")
        if self.randomized is not None and self.randomized >= _RESEMBLES:
            found.append(
                "It resembles the explanation of the same model with random parameters (rank "
                f"correlation {self.randomized:.2f}), so it shows the input more than what the "
                "model has learned."
            )
        return found


_RESEMBLES = 0.7
_AGAINST_RANDOM = {
    "infidelity": "It predicts what happens when features are removed no better than chance",
    "flipping": "Removing features in its order changes the output no faster than chance does",
}


@dataclass(frozen=True)
class ModelCheck:
    """The answers of a model to unusual inputs, beside those of models that know its data.

    Attributes:
        p_value: Of the hypothesis that the model strays no further from them than they do from one
            another; None: the check does not apply.
        reason: Why it does not apply, else empty.
        n_rows: Rows of data that they learned from.
        guessing: Accuracy of guesses that name each class as often as the model does; None: too
            few labels, or of one class.
        by_chance: p-value of the hypothesis that the model is right no more often than these
            guesses; None likewise.
        entropy: Mean entropy of the model's probabilities, as a share of the largest possible one;
            None: its outputs are not those of classes.
    """

    p_value: float | None
    reason: str = ""
    n_rows: int = 0
    guessing: float | None = None
    by_chance: float | None = None
    entropy: float | None = None


@dataclass(frozen=True)
class Findings:
    """All that an audit measured; :class:`AuditReport` says what each attribute is."""

    settings: Mapping[str, Any]
    circumstances: Mapping[str, Any]
    n_examples: int
    accuracy: Estimate | None
    explanations: Mapping[str, ExplanationSummary]
    refused: Mapping[str, str]
    agreement: Mapping[str, Estimate]
    rules: Rules
    rows: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    model_check: ModelCheck = ModelCheck(None, "it was not asked for")

    def is_suspicious(self) -> bool:
        """Whether the model answers unusual inputs otherwise than its answers on data suggest."""
        p_value = self.model_check.p_value
        return p_value is not None and p_value < self.rules.suspicious

    def untrained(self) -> list[str]:
        """Reasons to believe that the model has not learned its task; empty where there is none."""
        check, found = self.model_check, []
        by_chance = check.by_chance is not None and check.by_chance > self.rules.chance
        if by_chance and self.accuracy is not None:
            found.append(
                f"It is right on {self.accuracy.mean:.0%} of the examples, no clearly more often "
                f"than by guessing each class as often as it does ({check.guessing:.0%}). Check "
                "that its weights are loaded, that the inputs are normalised as it expects them, "
                "and that the numbers of the classes are its own."
            )
        if check.entropy is not None and check.entropy > self.rules.undecided:
            found.append(
                "It gives nearly the same probability to all classes (the entropy is "
                f"{check.entropy:.0%} of the largest possible one), as a network with random "
                "weights does. Check that its weights are loaded."
            )
        return found

    def summary(self) -> list[str]:
        """The conclusion in a few sentences."""
        by_verdict: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
        for name, found in self.explanations.items():
            by_verdict[found.verdict].append(name)
        hard, easy, unknown = (
            by_verdict[v] for v in (Verdict.HARD, Verdict.EASY, Verdict.UNRELIABLE)
        )
        total = len(self.explanations)
        sentences = []
        if self.is_suspicious():
            sentences.append(
                "The model answers unusual inputs otherwise than its answers on the data suggest, "
                "as models do that hide what they decide by: do not trust any explanation of it "
                "before you know why."
            )
        if self.untrained():
            sentences.append(
                "The model does not seem to have learned its task, so its explanations say nothing "
                "about what one that has looks at: see the section on the model."
            )
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
        if not total:
            sentences.append("No explanation could be measured.")
        return sentences


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
