"""Guided backpropagation of modules and functions alike, differentiable."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from captum.attr import GradientAttribution
from captum.log import log_usage
from torch import Tensor

from captum_robust._utils.checks import checked
from captum_robust._utils.eager import refuse_unseen
from captum_robust.attr._backwards import BLIND, BackwardRules
from captum_robust.attr._functions import is_activation
from captum_robust.attr._tape import Shares, Step, plain_backward

_NOTHING = (
    "guided backpropagation met no rectifier in the forward pass, so this explanation is the plain "
    "gradient. Expected of a network without rectifiers; torch.maximum and torch.where are not "
    "taken for one."
)


class GuidedBackprop(GradientAttribution):
    r"""The gradient, of which each rectifier passes only what is positive.

    .. math:: g_z = \sigma'(z)\,(g_{\sigma(z)})^+

    for every rectifier :math:`\sigma`: module, function, method and in place alike, used once or
    often, where :class:`captum.attr.GuidedBackprop` changes modules ``nn.ReLU`` alone and silently
    gives the plain gradient of others. Rectifiers are those of :class:`softplus_activations` but
    for gates (Hardsigmoid), and GELU, SiLU, ELU and their like. With a graph
    (:func:`differentiable`), so that it can be attacked.

    Under :class:`BetaSmoothing` the network is smoothed and the rule stays:
    :math:`g_z = \mathrm{sigmoid}(\beta z)\,g^+`. The code of Dombrowski et al. also has
    :math:`\mathrm{softplus}_\beta(g)` for :math:`g^+`, which of a gradient much smaller than
    :math:`1/\beta` leaves :math:`\ln 2/\beta`, whatever the class and the image.

    Args:
        forward_func: The model, or any function that calls it; it need not be a module.

    Raises:
        TypeError: The model is scripted, compiled or parallel; on ``attribute``, if it holds other
            code that cannot be seen, such as a custom ``torch.autograd.Function``.

    References:
        Springenberg et al. 2015, "Striving for simplicity: the all convolutional net".

    Example:
        >>> import torch
        >>> from captum_robust.attr import GuidedBackprop
        >>> explain = GuidedBackprop(lambda x: (x.relu() * torch.tensor([2.0, -3.0])).sum(1))
        >>> explain.attribute(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))
        tensor([[2., 0.],
                [0., 0.]])
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        refuse_unseen(forward_func, why=BLIND)
        super().__init__(forward_func)

    @log_usage()
    @checked
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Any:
        """Explain ``inputs``.

        Args:
            inputs: Tensor or tuple of tensors, examples along dimension 0.
            target: The class to explain, as in Captum.
            additional_forward_args: Further arguments of ``forward_func``, as in Captum.

        Returns:
            Guided gradients of the shapes, dtypes and devices of ``inputs``.

        Raises:
            ValueError: ``inputs`` is empty, integer, NaN, Inf or of unequal length.

        Warns:
            UserWarning: The model called no rectifier.
        """
        rules = _Guide()
        result = rules.detached(self.forward_func, inputs, target, additional_forward_args)
        rules.warn()
        return result

    def attribute_with_graph(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Any:
        """Like :meth:`attribute`, with a graph; the protocol of :func:`differentiable`."""
        rules = _Guide()
        result = rules.with_graph(self.forward_func, inputs, target, additional_forward_args)
        rules.warn()
        return result


class _Guide(BackwardRules):
    def __init__(self) -> None:
        super().__init__(self._guided)
        self.met = 0

    def warn(self) -> None:
        if not self.met:
            warnings.warn(_NOTHING, UserWarning, stacklevel=4)

    def _guided(self, step: Step, above: list[Tensor | None], create_graph: bool) -> Shares:
        if is_activation(step) and len(step.inputs) == 1:
            self.met += 1
            above = [None if g is None else torch.where(g > 0, g, 0.0) for g in above]
        return plain_backward(step, above, create_graph)
