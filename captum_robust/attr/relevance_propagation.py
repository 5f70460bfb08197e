"""Layer-wise relevance propagation, differentiable, by rules that can be chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum.log import log_usage
from torch import Tensor

from captum_robust._utils.captum import format_inputs
from captum_robust._utils.checks import checked
from captum_robust._utils.types import TensorOrTensors
from captum_robust._utils.user_warnings import warn_user
from captum_robust.attr._backward.attribution import BackwardAttribution
from captum_robust.attr._backward.backward_pass import BackwardPass
from captum_robust.attr._backward.call import Bounds
from captum_robust.attr._backward.lrp import LayerwiseRelevance
from captum_robust.attr._backward.lrp_rules import Settings
from captum_robust.attr.propagation_rules import PropagationRule, ZPlusRule

Bound = float | Tensor | None

_LOST = (
    "relevance propagation: only {:.2g} of the relevance arrives at the inputs of one example "
    "(median of the batch: {:.2g}), and the explanation shows nothing of the rest. {}"
)

_LOST_BY_Z_PLUS = (
    "Neurons without a positive contribution lose it under ZPlusRule: give rule=GammaRule(), "
    "which conserves it."
)

_LOST_BY_CONSTANTS = (
    "It stays with constants in the model (class tokens, what is written over), with neurons that "
    "no input contributes to, with biases where bias_takes_relevance, and with attention weights "
    "unless attention_weights=False."
)


class RelevancePropagation(BackwardAttribution):
    r"""Layer-wise relevance propagation: z+ in hidden layers, zB where the bounded input enters.

    .. math:: R_i = \sum_j \frac{(x_i w_{ij})^+}{\sum_k (x_k w_{kj})^+} R_j, \qquad
              R_i = \sum_j \frac{x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-}
                    {\sum_k x_k w_{kj} - l_k w_{kj}^+ - h_k w_{kj}^-} R_j

    from :math:`R = 1` at the explained output: attributions are shares of it. ``rule`` takes
    another rule than z+: :class:`GammaRule` conserves relevance in every layer, where z+ loses that
    of neurons which their bias alone holds up, as is common in depthwise convolutions. Biases and
    constants take nothing unless the rule says so.

    Activations, divisors, gates (a product with a sigmoid) and normalisations pass relevance on;
    pooling by the maximum hands it to the largest; sums and averages share as the rule says; a
    batch norm after a layer is one layer with it. Attention follows AttnLRP: half of the relevance
    of a product of two values goes to each, and through the softmax its first-order expansion.

    Args:
        forward_func: The model, or any function that calls it. It is left as it is.
        low: l, the least value of each input: a number, a tensor that can be broadcast to the
            input, or a tuple with one for each input. None: unbounded; ``rule`` there, too. What a
            model does before its first layer, such as to normalise, is taken into account.
        high: h, the largest value, likewise. Where noise takes an input out of its bounds, as
            :class:`KernelSmoothing` does, they are widened to hold it.
        rule: The :class:`PropagationRule` of layers, sums and averages; None: :class:`ZPlusRule`.
        dense_rule: That of linear layers and constant matrices alone; None: ``rule``.
        attention_weights: Whether attention weights take their half. If not, they are constants
            (Ali et al. 2022), and attention conserves relevance, which the softmax does not.

    Raises:
        TypeError: The model is scripted, compiled or parallel, or only one of the bounds is None;
            on ``attribute``, if it holds a layer without a rule, which the message names.

    References:
        Bach et al. 2015; Montavon et al. 2017; Dombrowski et al. 2019, Eq. 1 to 3; Achtibat et al.
        2024, "AttnLRP"; Ali et al. 2022, "XAI for transformers".

    Example:
        >>> import torch
        >>> from captum_robust.attr import RelevancePropagation
        >>> weights = torch.tensor([[1.0, -1.0, 2.0]])
        >>> explain = RelevancePropagation(lambda x: torch.nn.functional.linear(x, weights))
        >>> explain.attribute(torch.tensor([[0.5, 1.0, 0.25]]))
        tensor([[0.5000, 0.0000, 0.5000]])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        low: Bound | tuple[Bound, ...] = 0.0,
        high: Bound | tuple[Bound, ...] = 1.0,
        rule: PropagationRule | None = None,
        dense_rule: PropagationRule | None = None,
        attention_weights: bool = True,
    ) -> None:
        super().__init__(forward_func)
        _check_kinds(low, high)
        for name, given in (("rule", rule), ("dense_rule", dense_rule)):
            if given is not None and not isinstance(given, PropagationRule):
                raise TypeError(
                    f"{name} must be a PropagationRule, got {given!r}. Give an object, such as "
                    "GammaRule()."
                )
        self.low, self.high = low, high
        self.rule = ZPlusRule() if rule is None else rule
        self.dense_rule, self.attention_weights = dense_rule, attention_weights

    @log_usage()
    @checked
    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> TensorOrTensors | tuple[TensorOrTensors, Tensor]:
        """Explain ``inputs``.

        Args:
            inputs: Tensor or tuple of tensors, examples along dimension 0.
            target: The class to explain, as in Captum.
            additional_forward_args: Further arguments of ``forward_func``, as in Captum.
            return_convergence_delta: Whether to return what did not arrive as well.

        Returns:
            Attributions of the shapes, dtypes and devices of ``inputs``; with
            ``return_convergence_delta``, also 1 less :meth:`conserved_share`, of shape (N,).

        Raises:
            ValueError: ``inputs`` is empty, integer, NaN, Inf, of unequal length or out of bounds.
            TypeError: A layer cannot be explained, or cannot be recorded; the message names it.

        Warns:
            UserWarning: Less than one half of the relevance of an example arrives.
        """
        attributions = self._detached(inputs, target, additional_forward_args)
        share = self.conserved_share(attributions)
        if bool((share < 0.5).any()):
            remedy = _LOST_BY_Z_PLUS if self._is_z_plus() else _LOST_BY_CONSTANTS
            warn_user(_LOST.format(share.min().item(), share.median().item(), remedy))
        return (attributions, 1 - share) if return_convergence_delta else attributions

    def attribute_with_graph(
        self, inputs: TensorOrTensors, *args: Any, **kwargs: Any
    ) -> TensorOrTensors:
        """Like :meth:`attribute`, with a graph and without a warning."""
        return super().attribute_with_graph(inputs, *args, **kwargs)

    def conserved_share(self, attributions: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Which share of the relevance of the output arrived at the inputs.

        Args:
            attributions: What :meth:`attribute` returned.

        Returns:
            The sum over each example, shape (N,); 1 where all is conserved.

        Example:
            >>> import torch
            >>> from captum_robust.attr import GammaRule, RelevancePropagation
            >>> layer = torch.nn.Linear(2, 1)
            >>> explain = RelevancePropagation(layer, None, None, rule=GammaRule())
            >>> share = explain.conserved_share(explain.attribute(torch.tensor([[1.0, 3.0]])))
            >>> round(share.item(), 5)
            1.0
        """
        _, tensors = format_inputs(attributions)
        sums = [x.detach().flatten(1).sum(1, dtype=_at_least_single(x)) for x in tensors]
        return torch.stack(sums).sum(0)

    def has_convergence_delta(self) -> bool:
        """As Captum asks it."""
        return True

    def _is_z_plus(self) -> bool:
        rules = (self.rule, self.dense_rule)
        return any(rule is not None and rule.ignores_negative for rule in rules)

    def check_inputs(self, inputs: Tensor | tuple[Tensor, ...]) -> None:
        """Raise ValueError if ``inputs`` are out of bounds; called before :meth:`attribute`."""
        _, tensors = format_inputs(inputs)
        for x, low, high in zip(tensors, *self._bounds(len(tensors)), strict=True):
            if low is not None and not bool(((x >= low) & (x <= high)).all()):
                raise ValueError(
                    f"inputs must be from low to high, got values from {x.min().item():.4g} to "
                    f"{x.max().item():.4g}. Give the bounds of these inputs, as low=, high=; None "
                    "if they have none."
                )

    def _backward_pass(self) -> BackwardPass:
        settings = Settings(self.rule, self.dense_rule, self.attention_weights)
        return LayerwiseRelevance(settings, self._boxes)

    def _boxes(self, inputs: tuple[Tensor, ...]) -> tuple[Bounds | None, ...]:
        pairs = zip(inputs, *self._bounds(len(inputs)), strict=True)
        return tuple(
            None if low is None or high is None else (_least(x, low), _greatest(x, high))
            for x, low, high in pairs
        )

    def _bounds(self, n_inputs: int) -> list[tuple[Bound, ...]]:
        bounds = []
        for name, bound in (("low", self.low), ("high", self.high)):
            each = bound if isinstance(bound, tuple) else (bound,) * n_inputs
            if len(each) != n_inputs:
                raise ValueError(f"{name} has {len(each)} values for {n_inputs} inputs.")
            bounds.append(each)
        return bounds


def _at_least_single(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


# Outside of its bounds an input is its own bound, which moves with it; on them it is not.
def _least(x: Tensor, low: float | Tensor) -> Tensor:
    bound = torch.as_tensor(low, dtype=x.dtype, device=x.device)
    return torch.where(x < bound, x, bound)


def _greatest(x: Tensor, high: float | Tensor) -> Tensor:
    bound = torch.as_tensor(high, dtype=x.dtype, device=x.device)
    return torch.where(x > bound, x, bound)


def _check_kinds(low: Any, high: Any) -> None:
    n = max([len(b) for b in (low, high) if isinstance(b, tuple)], default=1)
    each = (b if isinstance(b, tuple) else (b,) * n for b in (low, high))
    for a, b in zip(*each, strict=False):  # where their lengths differ, the inputs tell
        if (a is None) != (b is None):
            raise TypeError("low and high must both be given, or both be None (unbounded).")
        if a is not None and not bool((torch.as_tensor(a) < torch.as_tensor(b)).all()):
            raise ValueError(f"low must be below high, got {a} and {b}.")
