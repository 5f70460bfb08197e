"""Which explanations are audited, by name, and which ones a model does not admit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from captum.attr import Attribution, IntegratedGradients, Saliency
from captum.log import log_usage
from torch import Tensor, nn

from captum_robust._utils.attributions import attribute_detached, draws_of, same_draws
from captum_robust._utils.randomness import seed_from
from captum_robust.attr import (
    BetaSmoothedGradient,
    GuidedBackprop,
    KernelSmoothing,
    RelevancePropagation,
)

# Of a model or of an explanation, not of the audit: such an error is reported and the run goes on.
EXPECTED_ERRORS = (
    TypeError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    AssertionError,
    IndexError,
)


@dataclass(frozen=True)
class Explained:
    """An explanation with the arguments that it is called with."""

    attribution: Attribution
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, inputs: Tensor, target: Tensor | None, seed: int = 0) -> Tensor:
        """Attributions of the shape of ``inputs``, without a graph; what it draws is seeded."""
        with same_draws(self.attribution, seed, inputs.device, dict(self.arguments)) as arguments:
            found = attribute_detached(self.attribution, inputs, target=target, **arguments)
        return found[0] if isinstance(found, tuple) else found


class Bound(Attribution):
    """An explanation with its arguments bound, for other classes to wrap."""

    def __init__(self, explained: Explained) -> None:
        super().__init__(explained.attribution.forward_func)
        self.attribution_method, self._explained = explained.attribution, explained

    @log_usage()
    def attribute(self, inputs: Tensor, target: Tensor | None = None) -> Tensor:
        """Attributions of the shape of ``inputs``, without a graph."""
        return self._explained(inputs, target)


class BoundWithDraws(Bound):
    """The same of an explanation that draws: who wraps it says with which generator."""

    @log_usage()
    def attribute(
        self,
        inputs: Tensor,
        target: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Attributions of the shape of ``inputs``, without a graph."""
        return self._explained(inputs, target, 0 if generator is None else seed_from(generator))


def bound(explained: Explained) -> Bound:
    """The explanation with its arguments; many copies at once can be asked where it draws none."""
    draws = any(draws_of(explained.attribution))
    return BoundWithDraws(explained) if draws else Bound(explained)


def default_explanations(
    model: nn.Module, input_range: tuple[Any, Any] | None
) -> dict[str, Explained]:
    """The usual explanations of a differentiable model."""
    low, high = (None, None) if input_range is None else input_range
    smooth = {"n_samples": 6, "radius": 0.1}
    return {
        "gradient": Explained(Saliency(model)),
        "integrated gradients": Explained(IntegratedGradients(model), {"n_steps": 8}),
        "LRP": Explained(RelevancePropagation(model, low, high)),
        "guided backpropagation": Explained(GuidedBackprop(model)),
        "SmoothGrad": Explained(KernelSmoothing(Saliency(model)), smooth),
        "beta-smoothed gradient": Explained(BetaSmoothedGradient(model, beta=1.0)),
    }


def named_explanations(
    explanations: Mapping[str, Any] | Sequence[str] | None,
    model: nn.Module,
    input_range: tuple[Any, Any] | None,
) -> dict[str, Explained]:
    """What the caller asked for: an ``Attribution``, or a pair of it and its arguments, by name.

    Names alone choose among the usual explanations.

    Raises:
        TypeError: A value is neither.
        ValueError: There is none, or a name is not one of the usual.
    """
    if explanations is None:
        return default_explanations(model, input_range)
    names_alone = isinstance(explanations, (list, tuple)) and all(
        isinstance(name, str) for name in explanations
    )
    if names_alone and explanations:
        usual = default_explanations(model, input_range)
        unknown = [name for name in explanations if name not in usual]
        if unknown:
            raise ValueError(f"explanations: {unknown[0]!r} is not one of {', '.join(usual)}.")
        return {name: usual[name] for name in explanations}
    if not isinstance(explanations, Mapping):
        raise TypeError(
            "explanations must be a dictionary of names and captum attributions, such as "
            f"{{'gradient': Saliency(model)}}, got {type(explanations).__name__}."
        )
    if not explanations:
        raise ValueError("explanations is empty. Name one at least, or pass None for the usual.")
    return {str(name): _explained(name, v) for name, v in explanations.items()}


def admitted(
    explanations: Mapping[str, Explained], inputs: Tensor, target: Tensor | None
) -> tuple[dict[str, Explained], dict[str, str]]:
    """The explanations that explain a first example, and why the others do not."""
    found, refused = {}, {}
    first = None if target is None else target[:1]
    for name, explained in explanations.items():
        try:
            attributions = explained(inputs[:1], first)
        except EXPECTED_ERRORS as error:
            refused[name] = f"{type(error).__name__}: {error}"
            continue
        if attributions.shape != inputs[:1].shape and attributions.dim() != inputs.dim():
            refused[name] = (
                f"gives shape {tuple(attributions.shape)} for inputs of shape "
                f"{tuple(inputs[:1].shape)}, so no relevance map of the inputs."
            )
        elif not bool(torch.isfinite(attributions).all()):
            refused[name] = "gives NaN or Inf for the first example."
        else:
            found[name] = explained
    return found, refused


def _explained(name: Any, value: Any) -> Explained:
    attribution, arguments = value if isinstance(value, tuple) and len(value) == 2 else (value, {})
    if not isinstance(attribution, Attribution) or not isinstance(arguments, Mapping):
        raise TypeError(
            f"explanations: {name!r} must be a captum Attribution, or a pair of one and its "
            f"arguments, got {type(value).__name__}. Wrap the model: Saliency(model)."
        )
    return Explained(attribution, dict(arguments))
