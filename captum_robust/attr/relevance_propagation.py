"""Layer-wise relevance propagation by the rules z+ and zB, differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_robust._utils.captum import format_inputs
from captum_robust.attr._backward.attribution import BackwardAttribution, BackwardRules
from captum_robust.attr._backward.lrp_rules import check, distribute
from captum_robust.attr._backward.tape import Bounds

Bound = float | Tensor | None


class RelevancePropagation(BackwardAttribution):
    r"""Layer-wise relevance propagation: z+ in hidden layers, zB where the bounded input enters.

    .. math:: R_i = \sum_j \frac{(x_i w_{ij})^+}{\sum_k (x_k w_{kj})^+} R_j, \qquad
              R_i = \sum_j \frac{x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-}
                    {\sum_k x_k w_{kj} - l_k w_{kj}^+ - h_k w_{kj}^-} R_j

    from :math:`R = 1` at the explained output; the sum over an example is at most 1. Activations,
    also batch norms of their own, pass on what they get; a batch norm after a layer is one layer
    with it; pooling by the maximum hands on to the largest; sums and averages share by positive
    parts, by negative ones where there are none; a product with a sigmoid goes to the signal.
    Biases take nothing. So relevance is conserved but where a neuron has no positive contribution
    at all: it is rare in most networks, but common among depthwise convolutions, whose neurons are
    often held up by their bias alone.

    Any model of torch's functions or modules will do, residual and dense ones among them, and is
    left as it is. It can be differentiated (:func:`differentiable`): the rules are ordinary
    operations on the true forward pass, so no other package and no copy of the model is needed.

    Args:
        forward_func: The model, or any function that calls it.
        low: l, the least value of each input: a number, a tensor that can be broadcast to the
            input, or a tuple with one for each input. None: unbounded, z+ there, too. It is that
            of the inputs themselves: what a model does before its first layer, such as to
            normalise, average or join them, is taken into account.
        high: h, the largest value, alike. Where noise takes an input outside of its bounds, as
            :class:`KernelSmoothing` does, they are widened to hold it.

    Raises:
        TypeError: The model is scripted, compiled or parallel, or only one of the bounds is None;
            on ``attribute``, if it holds a layer without a rule, which the message names.

    References:
        Bach et al. 2015; Montavon et al. 2017; Dombrowski et al. 2019, Eq. 1 to 3.

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
    ) -> None:
        super().__init__(forward_func)
        _check_kinds(low, high)
        self.low, self.high = low, high

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

    def _rules(self) -> BackwardRules:
        return BackwardRules(distribute, check, self._boxes)

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
