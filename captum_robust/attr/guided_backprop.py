"""Guided backpropagation of modules and functions, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_robust._utils.user_warnings import warn_user
from captum_robust.attr._backward.attribution import BackwardAttribution
from captum_robust.attr._backward.backward_pass import BackwardPass
from captum_robust.attr._backward.call import Call, Shares
from captum_robust.attr._backward.unsupported import unsupported

_NOTHING = (
    "guided backpropagation met no rectifier in the forward pass, so this explanation is the plain "
    "gradient. Expected of a network without rectifiers; torch.maximum and torch.where are not "
    "taken for one."
)


class GuidedBackprop(BackwardAttribution):
    r"""The gradient, of which each rectifier passes only what is positive.

    .. math:: g_z = \sigma'(z)\,(g_{\sigma(z)})^+

    for every rectifier :math:`\sigma`: module, function, method or in place, used once or often,
    where :class:`captum.attr.GuidedBackprop` changes modules ``nn.ReLU`` alone and silently gives
    the plain gradient of others. Rectifiers are those of :class:`softplus_activations` but for
    gates (Hardsigmoid), and GELU, SiLU, ELU and their like. With a graph (:func:`differentiable`),
    so that it can be attacked.

    Under :class:`BetaSmoothing` the network is smoothed and the rule stays:
    :math:`g_z = \mathrm{sigmoid}(\beta z)\,g^+`. The code of Dombrowski et al. also has
    :math:`\mathrm{softplus}_\beta(g)` for :math:`g^+`, which replaces every gradient much smaller
    than :math:`1/\beta` by the constant :math:`\ln 2/\beta`.

    Args:
        forward_func: The model, or any function that calls it; it need not be a module.

    Raises:
        TypeError: The model is scripted, compiled or parallel; on ``attribute``, if it holds other
            code that cannot be recorded, such as a custom ``torch.autograd.Function`` or an
            ``nn.RNN`` of rectifiers.

    Warns:
        UserWarning: On ``attribute``, if the model called no rectifier.

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

    def _backward_pass(self) -> _GuidedPass:
        return _GuidedPass()


_FUSED = "{!r} has rectifiers inside that cannot be reached. Write them with torch.relu."


class _GuidedPass(BackwardPass):
    def __init__(self) -> None:
        self.met = 0
        """How many rectifiers relevance has passed."""

    def check(self, call: Call) -> None:
        if call.name in ("rnn_relu", "rnn_relu_cell"):
            raise unsupported(_FUSED.format(call.name))

    def distribute(self, call: Call, relevance: list[Tensor | None], create_graph: bool) -> Shares:
        if call.is_activation and len(call.inputs) == 1:
            self.met += 1
            relevance = [None if g is None else torch.where(g > 0, g, 0.0) for g in relevance]
        return call.gradient_shares(relevance, create_graph)

    def finish(self) -> None:
        if not self.met:
            warn_user(_NOTHING)
