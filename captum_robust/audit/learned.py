"""Whether the answers of a model look like those of one that has learned its task."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from captum_robust.audit.results import ModelCheck
from captum_robust.outputs import Outputs

# With fewer labels a model that is right on most of them can pass for one that guesses.
_LEAST_LABELS = 20


def entropies(output: Tensor, outputs: Outputs) -> list[float] | None:
    """Entropy of the probabilities of each example, as a share of the largest possible one.

    A network with random weights gives nearly the same probability to all classes. None where the
    outputs are not those of classes, or are no logits that probabilities could be made of.

    Example:
        >>> import torch
        >>> from captum_robust.audit.learned import entropies
        >>> from captum_robust.outputs import Categorical
        >>> entropies(torch.tensor([[3.0, 3.0], [50.0, 0.0]]), Categorical())
        [1.0, 0.0]
    """
    if not outputs.has_classes:
        return None
    output = output.detach().double()
    if _are_probabilities(output):
        probabilities = output
    elif bool(((output >= 0) & (output <= 1)).all()) and output.numel() == len(output):
        return None  # one probability: its sigmoid would say nothing
    else:
        probabilities = outputs.comparable(output)
    if not _are_probabilities(probabilities):
        return None
    total = torch.special.entr(probabilities).sum(1)
    return (total / math.log(probabilities.shape[1])).round(decimals=6).tolist()


def _are_probabilities(values: Tensor) -> bool:
    if values.dim() != 2 or values.shape[1] < 2 or not bool((values >= 0).all()):
        return False
    return torch.allclose(values.sum(1), torch.ones(()).to(values), atol=1e-3)


class Answers:
    """What a model said of the examples, gathered row by row."""

    def __init__(self) -> None:
        self._labels: Counter[int] = Counter()
        self._predicted: Counter[int] = Counter()
        self._right = 0
        self._entropy = array("d")

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in an example."""
        if row.get("entropy") is not None:
            self._entropy.append(row["entropy"])
            if isinstance(row["label"], int):
                self._labels[row["label"]] += 1
                self._predicted[row["predicted"]] += 1
                self._right += bool(row["correct"])

    def added_to(self, check: ModelCheck) -> ModelCheck:
        """A check of the model with what follows from its answers."""
        n = self._labels.total()
        guessing = p_value = None
        if n >= _LEAST_LABELS and len(self._labels) > 1:
            # How often both name the same class where one has nothing to do with the other, as in
            # Cohen's kappa. The most frequent class alone would be a bar that a useful model of
            # unbalanced classes may miss.
            guessing = sum(self._labels[c] * self._predicted[c] for c in self._labels) / n**2
            test = binomtest(self._right, n, guessing, alternative="greater")
            p_value = float(test.pvalue)
        entropy = math.fsum(self._entropy) / len(self._entropy) if self._entropy else None
        return replace(check, guessing=guessing, by_chance=p_value, entropy=entropy)
