"""What an audit measures of a batch: one row for each example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from captum_robust import metrics
from captum_robust._utils.forward import logits_of
from captum_robust._utils.model_state import preserve_model
from captum_robust.audit.explanations import Explained
from captum_robust.audit.learned import entropies
from captum_robust.audit.progress import Progress
from captum_robust.audit.settings import Settings
from captum_robust.audit.shared import Shared
from captum_robust.audit.steps import Steps
from captum_robust.audit.store import BatchResult
from captum_robust.outputs import resolve


class Measurements:
    """Measure explanations of a model, batch by batch.

    Args:
        model: The model, in evaluation mode.
        explanations: What is measured, by name.
        settings: How.
        progress: What is told of each step.
    """

    def __init__(
        self,
        model: nn.Module,
        explanations: Mapping[str, Explained],
        settings: Settings,
        progress: Progress,
    ) -> None:
        self.model, self.explanations, self.settings = model, explanations, settings
        self.progress = progress

    def __call__(self, inputs: Tensor, labels: Tensor | None, first: int) -> BatchResult:
        """Measure a batch whose first example has the number ``first``."""
        device = next((p.device for p in self.model.parameters()), inputs.device)
        inputs = inputs.to(device)
        labels = None if labels is None else labels.to(device)
        with preserve_model(self.model):
            self.model.eval()
            rows, target = self._model_rows(inputs, labels, first)
            result = BatchResult(rows)
            maps: dict[str, dict[int, Tensor]] = {}
            shared = Shared(self.model)
            for name, explained in self.explanations.items():
                steps = Steps(
                    self.model, name, explained, self.settings, inputs, target, first, shared
                )
                entries = steps.run(self.progress)
                for row, entry in zip(rows, entries, strict=True):
                    row["explanations"][name] = entry
                result.arrays.update(steps.pictures())
                maps[name] = steps.clean_maps()
            self._agreement(rows, maps)
        return result

    def _model_rows(
        self, inputs: Tensor, labels: Tensor | None, first: int
    ) -> tuple[list[dict[str, Any]], Tensor | None]:
        with torch.no_grad():
            output = logits_of(self.model(inputs))
        outputs = resolve(self.settings.output, output, len(inputs))
        chosen = labels if self.settings.labels else None
        target = outputs.target(output, chosen)
        predicted = outputs.prediction(output)
        entropy = entropies(output, outputs)
        correct = None if labels is None else outputs.correct(output, labels).tolist()
        rows: list[dict[str, Any]] = [
            {
                "index": first + i,
                "predicted": predicted[i].tolist(),
                "label": None if labels is None else labels[i].tolist(),
                "correct": None if correct is None else correct[i],
                "entropy": None if entropy is None else entropy[i],
                "explanations": {},
            }
            for i in range(len(inputs))
        ]
        return rows, target

    def _agreement(
        self, rows: list[dict[str, Any]], maps: Mapping[str, Mapping[int, Tensor]]
    ) -> None:
        """Rank correlation of each two explanations, for the examples that have both."""
        names = list(maps)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                both = [index for index in maps[a] if index in maps[b]]
                if not both:
                    continue
                one, other = (torch.stack([maps[name][j] for j in both]) for name in (a, b))
                values = metrics.spearman_correlation(one, other).tolist()
                for j, value in zip(both, values, strict=True):
                    rows[j].setdefault("agreement", {})[f"{a} / {b}"] = value
