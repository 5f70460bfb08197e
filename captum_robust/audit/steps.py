"""What an audit measures of one explanation on a batch, one step after the other."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_robust import metrics, perturbations
from captum_robust._utils.relevance import normalized_relevance
from captum_robust.attacks import (
    AutoExplanationAttack,
    BlackBoxExplanationAttack,
    ExplanationAttack,
    RandomSign,
    TopKIntersection,
)
from captum_robust.attr import SparsifiedSmoothing
from captum_robust.audit.explanations import EXPECTED_ERRORS, Explained, bound
from captum_robust.audit.progress import Progress
from captum_robust.audit.settings import WHOLE, Settings, generator_for
from captum_robust.audit.shared import Shared
from captum_robust.audit.store import Arrays
from captum_robust.certificates import certify_top_k

_SMALLEST_FOR_SSIM = 7

Step = Callable[[list[int]], None]
"""Measures the examples with these numbers, counted within the batch."""


def successful(step: Step, examples: list[int], errors: dict[int, str]) -> list[int]:
    """Run a step on examples; where it fails, on either half, until it is known which are at fault.

    Returns:
        The examples on which it succeeded; of the others the message is in ``errors``.
    """
    if not examples:
        return []
    try:
        step(examples)
    except torch.cuda.OutOfMemoryError:
        raise
    except EXPECTED_ERRORS as error:
        if len(examples) == 1:
            errors[examples[0]] = f"{type(error).__name__}: {error}"
            return []
    else:
        return examples
    half = len(examples) // 2
    return successful(step, examples[:half], errors) + successful(step, examples[half:], errors)


def count_steps(settings: Settings) -> int:
    """How many steps each example takes; those of the first batch alone are left out.

    Explanation, an attack and noise of each size, infidelity, pixel flipping, sensitivity, and
    perhaps the certificate.
    """
    return 1 + 2 * len(settings.budget.sizes) + 3 + settings.certify


class Steps:
    """The measurements of one explanation on one batch.

    An example on which a step fails gets the error as its entry and takes no part in later steps;
    what was measured of the others is kept.

    Args:
        model: The model.
        name: Of the explanation.
        explained: The explanation.
        settings: How it is measured.
        inputs: The batch, (N, ...).
        target: What is explained of each example.
        first: The number of the first example in the data.
        shared: What other explanations have asked of the model on this batch.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        explained: Explained,
        settings: Settings,
        inputs: Tensor,
        target: Tensor | None,
        first: int,
        shared: Shared,
    ) -> None:
        self.model, self.name, self.explained, self.settings = model, name, explained, settings
        self.inputs, self.target, self.first, self.shared = inputs, target, first, shared
        self.entries: list[dict[str, Any]] = [{} for _ in inputs]
        self.left = list(range(len(inputs)))
        self._kept: dict[str, Tensor] = {}

    def run(self, progress: Progress) -> list[dict[str, Any]]:
        """An entry for each example: numbers by name, or its error."""
        steps: list[Step] = [self._explain]
        for fraction in self.settings.budget.sizes:
            steps += [partial(self._attack, fraction), partial(self._noise, fraction)]
        steps += [self._infidelity, self._flipping, self._sensitivity]
        if self.settings.certify:
            steps.append(self._certificate)
        errors: dict[int, str] = {}
        for step in steps:
            n_tried = len(self.left)
            self.left = successful(step, self.left, errors)
            progress.advance(n_tried)
        if self.first == 0:  # of the first batch alone, so it is not counted
            self.left = successful(self._randomization, self.left, errors)
        for i, message in errors.items():
            self.entries[i] = {"error": message}
        return self.entries

    def clean_maps(self) -> dict[int, Tensor]:
        """The relevance maps of the inputs, for the examples that were measured."""
        return {i: self._kept["clean"][i] for i in self.left}

    def pictures(self) -> Arrays:
        """The examples of this batch that the report may show: the worst and the median one."""
        if not self.left:
            return {}
        left = [self.entries[i][f"attack/{WHOLE}/top_k"] for i in self.left]
        order = np.argsort(left, kind="stable")
        parts = {
            "input": self.inputs, "moved": self._kept["moved"],
            "before": self._kept["clean"], "after": self._kept["after"],
        }  # fmt: skip
        return {
            f"{self.name}\n{self.first + i}\n{what}": values[i].float().cpu().numpy()
            for i in {self.left[order[0]], self.left[order[(len(order) - 1) // 2]]}
            for what, values in parts.items()
        }

    def _explain(self, part: list[int]) -> None:
        attributions = self.explained(*self._of(part), self._seed(part))
        self._keep(part, attributions=attributions, clean=self._maps(attributions))

    def _attack(self, fraction: float, part: list[int]) -> None:
        inputs, target = self._of(part)
        attack = self._strongest(fraction * self.settings.eps, part, fraction)
        with warnings.catch_warnings():
            # What an attack warns of is in its report, and so in the audit's.
            warnings.simplefilter("ignore", UserWarning)
            moved = attack(inputs, target)
        after = self._compared("attack", fraction, moved, part)
        if fraction == WHOLE:
            self._keep(part, moved=moved, after=after)
            found = attack.report
            assert found is not None
            # The shares of the batch: an indicator is about a search, not about an example. That
            # an explanation draws noise is none here: it was judged with draws of its own above.
            indicators = {s.name: s.share for s in found.indicators if s.name != "noise"}
            for i, untouched in zip(part, found.untouched.tolist(), strict=True):
                self.entries[i].update(failed=untouched, indicators=dict(indicators))

    def _noise(self, fraction: float, part: list[int]) -> None:
        noise = RandomSign(
            self.model, self.explained.attribution, fraction * self.settings.eps,
            **self._options(part, fraction, "noise"),
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            moved = noise(*self._of(part))
        self._compared("noise", fraction, moved, part)

    def _strongest(
        self, eps: float | Tensor, part: list[int], fraction: float
    ) -> ExplanationAttack:
        """The strongest attack that this explanation admits."""
        measure = TopKIntersection(self.settings.k)
        evaluations = self.settings.budget.evaluations
        attribution, options = self.explained.attribution, self._options(part, fraction, "attack")
        try:
            return AutoExplanationAttack(
                self.model, attribution, eps, measure=measure, budget=evaluations, **options
            )
        except TypeError:  # it has no correct graph
            return BlackBoxExplanationAttack(
                self.model, attribution, eps, queries=evaluations, measure=measure, **options
            )

    def _options(self, part: list[int], fraction: float, use: str) -> dict[str, Any]:
        settings = self.settings
        return {
            "output": settings.output,
            "input_range": settings.input_range,
            "channel_dim": settings.channel_dim,
            "explanation_kwargs": dict(self.explained.arguments),
            "generator": self._generator(part, fraction, use),
        }

    def _compared(self, kind: str, fraction: float, moved: Tensor, part: list[int]) -> Tensor:
        """Enter how much of the clean maps the moved inputs leave; returns their maps."""
        _, target = self._of(part)
        clean = self._kept_of("clean", part)
        maps = self._maps(self.explained(moved, target, self._seed(part)))
        found = {
            "top_k": metrics.top_k_intersection(clean, maps, k=self.settings.k),
            "rank": metrics.spearman_correlation(clean, maps),
        }
        if clean.dim() == 3 and min(clean.shape[1:]) >= _SMALLEST_FOR_SSIM:
            found["ssim"] = metrics.structural_similarity(clean, maps)
        for measure, values in found.items():
            self._enter(part, f"{kind}/{fraction}/{measure}", values)
        return maps

    def _infidelity(self, part: list[int]) -> None:
        inputs, target = self._of(part)
        attributions = self._kept_of("attributions", part)
        generator = self._generator(part, "faithfulness")
        order = torch.rand(len(inputs), inputs[0].numel(), generator=generator).argsort(1)
        shuffled = attributions.flatten(1).gather(1, order.to(inputs.device)).view_as(attributions)
        removal = _removal(inputs)
        for key, values in (("infidelity", attributions), ("infidelity_random", shuffled)):
            with self.shared.answers(("removal", *part)) as model:
                found = metrics.infidelity(
                    model, removal, inputs, values, target=target, normalize=True,
                    n_perturb_samples=self.settings.budget.perturbations,
                    generator=self._shared_draws(part, "removal"),
                )  # fmt: skip
            self._enter(part, key, found)

    def _flipping(self, part: list[int]) -> None:
        attributions = self._kept_of("attributions", part)
        self._enter(part, "flipping", self._area(part, attributions))
        # A random order is the same for all explanations.
        in_random_order = self.shared.once(("order", *part), lambda: self._area(part, None))
        self._enter(part, "flipping_random", in_random_order)

    def _area(self, part: list[int], attributions: Tensor | None) -> Tensor:
        inputs, target = self._of(part)
        return metrics.pixel_flipping(
            self.model, inputs, attributions, target=target, output=self.settings.output,
            channel_dim=self.settings.channel_dim, n_steps=self.settings.budget.flips,
            generator=self._shared_draws(part, "flipping"),
        ).area()  # fmt: skip

    def _sensitivity(self, part: list[int]) -> None:
        inputs, target = self._of(part)
        found = metrics.sensitivity_max(
            self.explained.attribution, inputs, perturb_radius=self.settings.largest_eps(),
            n_perturb_samples=self.settings.budget.neighbours, target=target,
            generator=self._generator(part, "sensitivity"), **self.explained.arguments,
        )  # fmt: skip
        self._enter(part, "sensitivity", found)

    def _certificate(self, part: list[int]) -> None:
        settings = self.settings
        inputs, target = self._of(part)
        smoothed = SparsifiedSmoothing(
            bound(self.explained),
            kept=0.1,
            stdev=settings.certified_stdev,
            channel_dim=settings.channel_dim,
        )
        certificate = certify_top_k(
            smoothed, inputs, settings.certified_radii, settings.k, target=target,
            n_samples=settings.budget.copies, output=settings.output,
            seed=self._generator(part, "certificate").initial_seed(),
        )  # fmt: skip
        for radius, values in zip(settings.certified_radii, certificate.overlap.T, strict=True):
            self._enter(part, f"certified/{radius}", values)

    def _randomization(self, part: list[int]) -> None:
        """Mean rank correlation with the explanations of the model with random parameters."""
        inputs, target = self._of(part)
        # "" is the model itself: all layers at once, since no step between is reported.
        found = metrics.parameter_randomization(
            self.explained.attribution, inputs, self.model, layers=[""], target=target,
            generator=generator_for(self.settings.seed, self.name, "randomization"),
            **self.explained.arguments,
        )  # fmt: skip
        (random,) = found.values()
        self.entries[part[0]]["randomized"] = float(random.absolute.abs().mean())

    def _of(self, part: list[int]) -> tuple[Tensor, Tensor | None]:
        if len(part) == len(self.inputs):
            return self.inputs, self.target
        return self.inputs[part], None if self.target is None else self.target[part]

    def _keep(self, part: list[int], **found: Tensor) -> None:
        for name, values in found.items():
            if name not in self._kept:
                self._kept[name] = values.new_zeros((len(self.inputs), *values.shape[1:]))
            self._kept[name][part] = values

    def _kept_of(self, name: str, part: list[int]) -> Tensor:
        values = self._kept[name]
        return values if len(part) == len(values) else values[part]

    def _enter(self, part: list[int], key: str, values: Tensor) -> None:
        for i, value in zip(part, values.tolist(), strict=True):
            self.entries[i][key] = value if math.isfinite(value) else None

    def _maps(self, attributions: Tensor) -> Tensor:
        return normalized_relevance(attributions, self.settings.channel_dim)

    def _generator(self, part: list[int], *use: object) -> torch.Generator:
        return generator_for(self.settings.seed, self.name, self.first + part[0], *use)

    def _shared_draws(self, part: list[int], use: str) -> torch.Generator:
        """Draws that are the same for all explanations of an example."""
        return generator_for(self.settings.seed, self.first + part[0], use)

    def _seed(self, part: list[int]) -> int:
        """Of the noise of an explanation, the same for all explanations of an example."""
        return self._generator(part, "explanation").initial_seed()


def _removal(inputs: Tensor) -> perturbations.Perturbation:
    """What infidelity removes: squares of an image, up to a third of its side, else features."""
    if inputs.dim() != 4:
        return perturbations.FeatureRemoval()
    largest = min(10, max(1, min(inputs.shape[2:]) // 3))
    return perturbations.SquareRemoval(range(1, largest + 1))
