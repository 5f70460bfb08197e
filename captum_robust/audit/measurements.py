"""What an audit measures of a batch: one row for each example."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_robust import metrics, perturbations
from captum_robust._utils.forward import logits_of
from captum_robust._utils.model_state import preserve_model
from captum_robust._utils.relevance import normalized_relevance
from captum_robust.attacks import (
    AutoExplanationAttack,
    BlackBoxExplanationAttack,
    ExplanationAttack,
    RandomSign,
    TopKIntersection,
)
from captum_robust.attr import SparsifiedSmoothing
from captum_robust.audit.explanations import Bound, Explained
from captum_robust.audit.settings import FRACTIONS, Settings, generator_for
from captum_robust.audit.store import BatchResult
from captum_robust.certificates import certify_top_k
from captum_robust.outputs import resolve

# Of a model or of an explanation, not of the audit: such an error is reported and the run goes on.
EXPECTED_ERRORS = (
    TypeError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    AssertionError,
    IndexError,
)
_SMALLEST_FOR_SSIM = 7


class Measurements:
    """Measure explanations of a model, batch by batch.

    Args:
        model: The model, in evaluation mode.
        explanations: What is measured, by name.
        settings: How.
    """

    def __init__(
        self, model: nn.Module, explanations: Mapping[str, Explained], settings: Settings
    ) -> None:
        self.model, self.explanations, self.settings = model, explanations, settings

    def __call__(self, inputs: Tensor, labels: Tensor | None, first: int) -> BatchResult:
        """Measure a batch whose first example has the number ``first``."""
        device = next((p.device for p in self.model.parameters()), inputs.device)
        inputs = inputs.to(device)
        labels = None if labels is None else labels.to(device)
        with preserve_model(self.model):
            self.model.eval()
            rows, target = self._model_rows(inputs, labels, first)
            result, maps = BatchResult(rows), {}
            for name, explained in self.explanations.items():
                found, arrays, clean = self._explanation(name, explained, inputs, target, first)
                for row, entry in zip(rows, found, strict=True):
                    row["explanations"][name] = entry
                result.arrays.update(arrays)
                if clean is not None:
                    maps[name] = clean
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
        correct = None if labels is None else outputs.correct(output, labels).tolist()
        rows: list[dict[str, Any]] = [
            {
                "index": first + i,
                "predicted": predicted[i].tolist(),
                "label": None if labels is None else labels[i].tolist(),
                "correct": None if correct is None else correct[i],
                "explanations": {},
            }
            for i in range(len(inputs))
        ]
        return rows, target

    def _explanation(
        self, name: str, explained: Explained, inputs: Tensor, target: Tensor | None, first: int
    ) -> tuple[list[dict[str, Any]], dict[str, Any], Tensor | None]:
        """Entries, pictures and clean maps of one explanation; its errors become entries."""
        try:
            return self._measured(name, explained, inputs, target, first)
        except torch.cuda.OutOfMemoryError:
            raise
        except EXPECTED_ERRORS as error:
            if len(inputs) == 1:
                return [{"error": f"{type(error).__name__}: {error}"}], {}, None
        # Some of the examples may be at fault: each is tried on its own.
        entries: list[dict[str, Any]] = []
        arrays: dict[str, Any] = {}
        for i in range(len(inputs)):
            one = None if target is None else target[i : i + 1]
            found, pictures, _ = self._explanation(
                name, explained, inputs[i : i + 1], one, first + i
            )
            entries += found
            arrays.update(pictures)
        return entries, arrays, None

    def _measured(
        self, name: str, explained: Explained, inputs: Tensor, target: Tensor | None, first: int
    ) -> tuple[list[dict[str, Any]], dict[str, Any], Tensor]:
        attributions = explained(inputs, target, self._seed(name, first))
        clean = self._maps(attributions)
        entries: list[dict[str, Any]] = [{} for _ in inputs]
        shown = self._under_attack(name, explained, inputs, target, first, clean, entries)
        for key, values in self._faithfulness(name, inputs, attributions, target, first).items():
            _put(entries, key, values)
        radius = self.settings.largest_eps()
        sensitivity = metrics.sensitivity_max(
            explained.attribution, inputs, perturb_radius=radius,
            n_perturb_samples=self.settings.budget.neighbours, target=target,
            generator=generator_for(self.settings.seed, name, first, "sensitivity"),
            **explained.arguments,
        )  # fmt: skip
        _put(entries, "sensitivity", sensitivity)
        if self.settings.certify:
            self._certificate(name, explained, inputs, target, first, entries)
        if first == 0:
            entries[0]["randomized"] = self._randomized(name, explained, inputs, target)
        return entries, self._pictures(name, inputs, shown, clean, entries, first), clean

    def _under_attack(
        self,
        name: str,
        explained: Explained,
        inputs: Tensor,
        target: Tensor | None,
        first: int,
        clean: Tensor,
        entries: list[dict[str, Any]],
    ) -> tuple[Tensor, Tensor]:
        """What is left at each size of the change; the manipulated inputs and maps of the last."""
        settings = self.settings
        shared: dict[str, Any] = {
            "output": settings.output,
            "input_range": settings.input_range,
            "channel_dim": settings.channel_dim,
            "explanation_kwargs": dict(explained.arguments),
        }
        for fraction in FRACTIONS:
            eps, part = fraction * settings.eps, (name, first, fraction)
            shared["generator"] = generator_for(settings.seed, *part, "attack")
            attack = self._attack(explained, eps, shared)
            noise = RandomSign(
                self.model, explained.attribution, eps,
                **{**shared, "generator": generator_for(settings.seed, *part, "noise")},
            )  # fmt: skip
            for kind, attacker in (("attack", attack), ("noise", noise)):
                with warnings.catch_warnings():
                    # What an attack warns of is in its report, and so in the audit's.
                    warnings.simplefilter("ignore", UserWarning)
                    moved = attacker(inputs, target)
                maps = self._maps(explained(moved, target, self._seed(name, first)))
                for measure, values in self._similarity(clean, maps).items():
                    _put(entries, f"{kind}/{fraction}/{measure}", values)
                if kind == "attack":
                    shown = moved, maps
        found = attack.report  # of the largest change
        assert found is not None
        for entry, untouched in zip(entries, found.untouched.tolist(), strict=True):
            entry["failed"] = untouched
            # The shares of the batch: an indicator is about a search, not about an example.
            entry["indicators"] = {sign.name: sign.share for sign in found.indicators}
        return shown

    def _attack(
        self, explained: Explained, eps: float | Tensor, shared: dict[str, Any]
    ) -> ExplanationAttack:
        """The strongest attack that this explanation admits."""
        measure = TopKIntersection(self.settings.k)
        evaluations = self.settings.budget.evaluations
        attribution = explained.attribution
        try:
            return AutoExplanationAttack(
                self.model, attribution, eps, measure=measure, budget=evaluations, **shared
            )
        except TypeError:  # it has no correct graph
            return BlackBoxExplanationAttack(
                self.model, attribution, eps, queries=evaluations, measure=measure, **shared
            )

    def _similarity(self, clean: Tensor, maps: Tensor) -> dict[str, Tensor]:
        found = {
            "top_k": metrics.top_k_intersection(clean, maps, k=self.settings.k),
            "rank": metrics.spearman_correlation(clean, maps),
        }
        if clean.dim() == 3 and min(clean.shape[1:]) >= _SMALLEST_FOR_SSIM:
            found["ssim"] = metrics.structural_similarity(clean, maps)
        return found

    def _faithfulness(
        self, name: str, inputs: Tensor, attributions: Tensor, target: Tensor | None, first: int
    ) -> dict[str, Tensor]:
        settings, n = self.settings, len(inputs)
        generator = generator_for(settings.seed, name, first, "faithfulness")
        order = torch.rand(n, inputs[0].numel(), generator=generator).argsort(1).to(inputs.device)
        shuffled = attributions.flatten(1).gather(1, order).view_as(attributions)
        removal = _removal(inputs)
        found = {}
        for key, values in (("infidelity", attributions), ("infidelity_random", shuffled)):
            found[key] = metrics.infidelity(
                self.model, removal, inputs, values, target=target, normalize=True,
                n_perturb_samples=settings.budget.perturbations,
                generator=generator_for(settings.seed, name, first, "removal"),
            )  # fmt: skip
        orders: dict[str, Tensor | None] = {"flipping": attributions, "flipping_random": None}
        for key, order_by in orders.items():
            curves = metrics.pixel_flipping(
                self.model, inputs, order_by, target=target, output=settings.output,
                channel_dim=settings.channel_dim, n_steps=settings.budget.flips,
                generator=generator_for(settings.seed, name, first, "flipping"),
            )  # fmt: skip
            found[key] = curves.area()
        return found

    def _certificate(
        self,
        name: str,
        explained: Explained,
        inputs: Tensor,
        target: Tensor | None,
        first: int,
        entries: list[dict[str, Any]],
    ) -> None:
        settings = self.settings
        smoothed = SparsifiedSmoothing(
            Bound(explained, self._seed(name, first)),
            kept=0.1,
            stdev=settings.certified_stdev,
            channel_dim=settings.channel_dim,
        )
        certificate = certify_top_k(
            smoothed, inputs, settings.certified_radii, settings.k, target=target,
            n_samples=settings.budget.copies, output=settings.output,
            seed=generator_for(settings.seed, name, first, "certificate").initial_seed(),
        )  # fmt: skip
        for radius, values in zip(settings.certified_radii, certificate.overlap.T, strict=True):
            _put(entries, f"certified/{radius}", values)

    def _randomized(
        self, name: str, explained: Explained, inputs: Tensor, target: Tensor | None
    ) -> float:
        """Mean rank correlation with the explanations of the model with random parameters."""
        found = metrics.parameter_randomization(
            explained.attribution, inputs, self.model, target=target,
            generator=generator_for(self.settings.seed, name, "randomization"),
            **explained.arguments,
        )  # fmt: skip
        (*_, last) = found.values()
        return float(last.absolute.abs().mean())

    def _agreement(self, rows: list[dict[str, Any]], maps: Mapping[str, Tensor]) -> None:
        names = list(maps)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                values = metrics.spearman_correlation(maps[a], maps[b])
                for row, value in zip(rows, values.tolist(), strict=True):
                    row.setdefault("agreement", {})[f"{a} / {b}"] = value

    def _pictures(
        self,
        name: str,
        inputs: Tensor,
        shown: tuple[Tensor, Tensor],
        clean: Tensor,
        entries: list[dict[str, Any]],
        first: int,
    ) -> dict[str, Any]:
        """The examples of this batch that the report may show: the worst and the median one."""
        left = [entry[f"attack/{FRACTIONS[-1]}/top_k"] for entry in entries]
        order = np.argsort(left, kind="stable")
        moved, after = shown
        arrays = {}
        for i in {int(order[0]), int(order[(len(order) - 1) // 2])}:
            parts = {"input": inputs, "moved": moved, "before": clean, "after": after}
            for what, values in parts.items():
                arrays[f"{name}\n{first + i}\n{what}"] = values[i].float().cpu().numpy()
        return arrays

    def _maps(self, attributions: Tensor) -> Tensor:
        return normalized_relevance(attributions, self.settings.channel_dim)

    def _seed(self, name: str, first: int) -> int:
        """Of the noise of an explanation, the same for all explanations of an example."""
        return generator_for(self.settings.seed, name, first, "explanation").initial_seed()


def _removal(inputs: Tensor) -> perturbations.Perturbation:
    """What infidelity removes: squares of an image, up to a third of its side, else features."""
    if inputs.dim() != 4:
        return perturbations.FeatureRemoval()
    largest = min(10, max(1, min(inputs.shape[2:]) // 3))
    return perturbations.SquareRemoval(range(1, largest + 1))


def _put(entries: list[dict[str, Any]], key: str, values: Tensor) -> None:
    for entry, value in zip(entries, values.tolist(), strict=True):
        entry[key] = float(value)
