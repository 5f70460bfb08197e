"""PatternAttribution, differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.user_warnings import warn_user
from captum_robust.attr._backward.attribution import BackwardAttribution
from captum_robust.attr._backward.backward_pass import BackwardPass
from captum_robust.attr._backward.call import Call, Shares
from captum_robust.attr._backward.operations import FUSED_PRODUCTS, MATRIX_PRODUCTS
from captum_robust.attr._backward.unsupported import unsupported
from captum_robust.attr.patterns import COMPUTED, Patterns

_UNKNOWN = (
    "patterns has none for the weight of {!r}. Learn them with learn_patterns from this very model."
)

_STRANGE = (
    "patterns: that of {!r} is not of these weights, since one times the other does not sum to 1: "
    "they were changed since, or are another model's. Learn the patterns again."
)

_NO_LAYER = (
    "{!r} multiplies by a weight that can have no pattern. Write it with "
    "torch.nn.functional.linear or a convolution."
)


class PatternAttribution(BackwardAttribution):
    r"""The gradient with each weight times its pattern instead of the weight.

    .. math:: R_x = (W \odot A)^\top R_y

    from :math:`R = 1` at the explained output, and the true derivative of all that is not a layer
    of weights. A batch norm after a layer is one layer with it. It can be differentiated
    (:func:`differentiable`), and takes modules and functional layers.

    Args:
        forward_func: The model, or any function that calls it.
        patterns: A, one for each weight: :func:`learn_patterns`.
        model: The module whose weights the patterns are for; None: ``forward_func``.

    Raises:
        TypeError: ``model`` is not a module, or is scripted, compiled or parallel; on
            ``attribute``, if it holds a layer without a pattern, which the message names.
        ValueError: A pattern has a name or a shape that no parameter of ``model`` has.

    Warns:
        UserWarning: The weights are not those that the patterns were learned from.

    References:
        Kindermans et al. 2018, "Learning how to explain neural networks".

    Example:
        >>> import torch
        >>> from captum_robust.attr import PatternAttribution, learn_patterns
        >>> signal = torch.tensor([[-1.0], [0.0], [1.0]]) * torch.tensor([1.0, 1.0])
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -1.0]]))
        >>> explain = PatternAttribution(model, learn_patterns(model, [signal]))
        >>> explain.attribute(signal[2:])
        tensor([[ 2., -1.]])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        patterns: Patterns,
        model: nn.Module | None = None,
    ) -> None:
        super().__init__(forward_func)
        model = forward_func if model is None else model  # type: ignore[assignment]
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model must be a torch.nn.Module, got {type(model).__name__}. Where forward_func "
                "is none, name the module whose weights the patterns are for: model=."
            )
        if not isinstance(patterns, Patterns):
            raise TypeError(
                f"patterns must be Patterns, got {type(patterns).__name__}. Learn them with "
                "learn_patterns, or read them with Patterns.load."
            )
        weights = dict(model.named_parameters())
        for name, pattern in patterns.items():
            shape = tuple(weights[name].shape) if name in weights else None
            if shape != tuple(pattern.shape):
                raise ValueError(
                    f"patterns: {name!r} has shape {tuple(pattern.shape)}, and in the model "
                    f"{shape or 'it does not exist'}. Learn them from this very model."
                )
            if not _fits(pattern, weights[name]):
                warn_user(_STRANGE.format(name))
        self.patterns = patterns
        self._named_parameters = model.named_parameters

    def _backward_pass(self) -> _PatternPass:
        known = {id(w): self.patterns.get(name) for name, w in self._named_parameters()}
        return _PatternPass(known)


def _fits(pattern: Tensor, weight: Tensor) -> bool:
    """Whether most neurons answer to their pattern with 1, as the estimator has it; roughly."""
    answers = (weight.detach() * pattern.to(weight)).flatten(1).sum(1)
    answers = answers[(pattern != 0).flatten(1).any(1).to(answers.device)]
    return not len(answers) or bool((answers - 1).abs().median() < 0.1)


class _PatternPass(BackwardPass):
    def __init__(self, by_weight: dict[int, Tensor | None]) -> None:
        self._by_weight = by_weight
        """The pattern of each parameter, by its id; None without one."""

    def check(self, call: Call) -> None:
        if call.is_layer and self._by_weight.get(id(call.weight)) is None:
            is_parameter = id(call.weight) in self._by_weight
            raise unsupported((_UNKNOWN if is_parameter else COMPUTED).format(call.name))
        if call.name in MATRIX_PRODUCTS | FUSED_PRODUCTS:
            raise unsupported(_NO_LAYER.format(call.name))

    def distribute(self, call: Call, relevance: list[Tensor | None], create_graph: bool) -> Shares:
        if call.is_layer:
            pattern = self._by_weight[id(call.weight)]
            assert pattern is not None
            weight, (node,) = call.weight * pattern.to(call.weight), call.inputs
            x = node.tensor.detach().requires_grad_()  # of which the derivative does not depend
            y = call.applied(x, weight)
            return [(node, torch.autograd.grad(y, x, relevance, create_graph=create_graph)[0])]
        if call.layer_below is not None:
            # One layer with the one below, and the slope cancels in weight times pattern.
            (above,) = relevance
            assert above is not None
            return [(call.inputs[0], above)]
        return call.gradient_shares(relevance, create_graph)
