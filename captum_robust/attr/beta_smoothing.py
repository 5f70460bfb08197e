"""Beta smoothing: explain the network with its kinks rounded off."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from captum.attr import (
    LRP,
    Attribution,
    Deconvolution,
    GradientAttribution,
    GuidedBackprop,
    GuidedGradCam,
    Saliency,
)
from captum.log import log_usage
from torch import Tensor, nn

from captum_robust._utils.attributions import attribute_detached, map_forward
from captum_robust._utils.autograd_graph import missed_rectifiers
from captum_robust._utils.checks import check_attribution, check_positive, checked
from captum_robust._utils.constants import Constants
from captum_robust._utils.eager import require_eager
from captum_robust._utils.forward import logits_of, signature_of
from captum_robust._utils.types import TensorOrTensors
from captum_robust._utils.user_warnings import warn_user
from captum_robust.attr.differentiable import differentiable
from captum_robust.attr.softplus import softplus_activations

# They use rectifiers of their own in hooks and rules, or do not call ``forward_func``.
_NOT_SMOOTHABLE = (LRP, GuidedBackprop, Deconvolution, GuidedGradCam)

_NOTHING = (
    "beta smoothing met no rectifier of the inputs in the forward pass, so this explanation is the "
    "unsmoothed one. Expected of a network without rectifiers, or with rectifiers of its weights "
    "alone; otherwise the model is scripted, compiled, or spells them in a way that cannot be seen."
)
_IN_PART = (
    "beta smoothing may have missed some rectifiers, so this explanation may be smooth only in "
    "part: {}. Scripted code, torch.ops and the backward pass of a custom torch.autograd.Function "
    "cannot be seen; call torch.relu in their place."
)


class BetaSmoothing(Attribution):
    r"""Any Captum explanation of the network with softplus instead of its rectifiers.

    .. math:: \phi_\beta(f, x) = \phi(f[\mathrm{relu} \to \mathrm{softplus}_\beta], x)

    Used like :class:`captum.attr.NoiseTunnel`, around it or inside it. It costs one run of the
    wrapped method, where SmoothGrad costs one per noise sample. The model is left as it is, and
    only its forward pass is smoothed, never the arithmetic of the explanation itself. Of nested
    smoothings the outermost counts: inside it no rectifier is left to smooth.

    Args:
        attribution_method: The Captum explanation to smooth.
        beta: Sharpness of the softplus (see :class:`softplus_activations`). About 1 suits the
            gradient; explanations by rules of their own keep their map with 3 to 10.

    Raises:
        ValueError: ``beta`` is not a positive finite number.
        TypeError: ``attribution_method`` is not an ``Attribution``, or one that cannot be smoothed
            (Captum's LRP, GuidedBackprop, Deconvolution and what is built on them; this package's
            own can be), or its model is scripted, compiled or parallel.

    References:
        Dombrowski et al. 2019, "Explanations can be manipulated and geometry is to blame".

    Example:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from captum_robust.attr import BetaSmoothing
        >>> smooth = BetaSmoothing(Saliency(torch.nn.ReLU()), beta=1.0)
        >>> smooth.attribute(torch.tensor([[-1.0], [0.0], [1.0]])).flatten()
        tensor([0.2689, 0.5000, 0.7311])
    """

    def __init__(self, attribution_method: Attribution, beta: float = 1.0) -> None:
        check_attribution(attribution_method)
        _refuse_unsmoothable(attribution_method)
        check_positive(beta=beta)
        super().__init__(attribution_method.forward_func)
        self.attribution_method = attribution_method
        self.beta = beta

    @log_usage()
    @checked
    def attribute(self, inputs: TensorOrTensors, *args: Any, **kwargs: Any) -> TensorOrTensors:
        """Explain ``inputs``; arguments and result are those of the wrapped method.

        Args:
            inputs: Tensor or tuple of tensors, examples along dimension 0.
            *args: Handed to the wrapped method.
            **kwargs: Handed to the wrapped method (``target``, ``baselines``, ...).

        Returns:
            What the wrapped method returns: attributions of the shapes of ``inputs``.

        Raises:
            ValueError: ``inputs`` is empty, NaN, Inf or of unequal length.

        Warns:
            UserWarning: The model called no rectifier, so nothing was smoothed; or hides some.
        """
        return attribute_detached(self._smoothed(), inputs, *args, **kwargs)

    def attribute_with_graph(
        self, inputs: TensorOrTensors, *args: Any, **kwargs: Any
    ) -> TensorOrTensors:
        """Like :meth:`attribute`, with a graph; the protocol of :func:`differentiable`."""
        return differentiable(self._smoothed())(inputs, *args, **kwargs)

    def _smoothed(self) -> Attribution:
        return map_forward(self.attribution_method, partial(_smooth, beta=self.beta))

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the wrapped method gives global attributions (Captum's convention)."""
        return self.attribution_method.multiplies_by_inputs

    def has_convergence_delta(self) -> bool:
        """Whether the wrapped method reports a convergence delta."""
        return self.attribution_method.has_convergence_delta()

    def compute_convergence_delta(self, *args: Any, **kwargs: Any) -> Tensor:
        """The wrapped method's convergence delta, for the smoothed network."""
        return self._smoothed().compute_convergence_delta(*args, **kwargs)


class BetaSmoothedGradient(GradientAttribution):
    r"""Gradient of the network with softplus instead of its rectifiers.

    .. math:: \phi_\beta(f_c, x) = \nabla_x\, f_c[\mathrm{relu} \to \mathrm{softplus}_\beta](x)

    The short form of ``BetaSmoothing(Saliency(forward_func), beta)`` with signed values.

    Args:
        forward_func: The model, or any function that calls it.
        beta: Sharpness of the softplus (see :class:`softplus_activations`); about 1 works well.

    Raises:
        ValueError: ``beta`` is not a positive finite number.
        TypeError: The model is scripted, compiled or parallel.

    References:
        Dombrowski et al. 2019, Section 4.

    Example:
        >>> import torch
        >>> from captum_robust.attr import BetaSmoothedGradient
        >>> explain = BetaSmoothedGradient(torch.nn.ReLU(), beta=2.0)
        >>> explain.attribute(torch.tensor([[-1.0], [0.0], [1.0]])).flatten()
        tensor([0.1192, 0.5000, 0.8808])
    """

    def __init__(self, forward_func: Callable[..., Any], beta: float = 1.0) -> None:
        require_eager(forward_func)
        check_positive(beta=beta)
        super().__init__(forward_func)
        self.beta = beta

    @log_usage()
    @checked
    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Any = None,
        abs: bool = False,
        additional_forward_args: Any = None,
    ) -> TensorOrTensors:
        """Explain ``inputs``.

        Args:
            inputs: Tensor or tuple of tensors, examples along dimension 0.
            target: The class to explain, as in Captum.
            abs: Whether to return absolute values.
            additional_forward_args: Further arguments of ``forward_func``, as in Captum.

        Returns:
            Gradients of the shapes, dtypes and devices of ``inputs``.

        Raises:
            ValueError: ``inputs`` is empty, NaN, Inf or of unequal length.

        Warns:
            UserWarning: The model called no rectifier, so nothing was smoothed; or hides some.
        """
        return attribute_detached(self._saliency(), inputs, target, abs, additional_forward_args)

    def attribute_with_graph(
        self, inputs: TensorOrTensors, *args: Any, **kwargs: Any
    ) -> TensorOrTensors:
        """Like :meth:`attribute`, with a graph; the protocol of :func:`differentiable`."""
        if len(args) < 2:  # Saliency itself takes absolute values unless it is told not to
            kwargs.setdefault("abs", False)
        return differentiable(self._saliency())(inputs, *args, **kwargs)

    def _saliency(self) -> Saliency:
        return Saliency(_smooth(self.forward_func, self.beta))


class SmoothForward(nn.Module):
    """A forward function that computes softplus instead of rectifiers; the original is kept.

    It is what :class:`BetaSmoothing` hands to the wrapped method instead of ``forward_func``: a
    module, since DeepLift hooks the model and its submodules.
    """

    def __init__(self, forward_func: Callable[..., Any], beta: float) -> None:
        super().__init__()
        self.training = getattr(forward_func, "training", True)
        self.forward_func = forward_func
        self.beta = beta
        self._constants: Constants | None = None
        self.__signature__ = signature_of(forward_func)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The smoothed network's output, unwrapped."""
        if self._constants is None:
            self._constants = Constants(self.forward_func)
        with softplus_activations(self.beta, self._constants) as smoothing:
            output = logits_of(self.forward_func(*args, **kwargs))
        if not smoothing.replaced:
            warn_user(_NOTHING)
            return output
        hidden = smoothing.replaced_without_grad > 0 and torch.is_grad_enabled()
        left = missed_rectifiers(output, args, hidden, self._constants.nodes())
        if left:
            names = ", ".join(sorted(set(left)))
            warn_user(_IN_PART.format(names))
        return output


def _smooth(forward: Callable[..., Any], beta: float) -> SmoothForward:
    # What is smooth already was smoothed by a BetaSmoothing around this one.
    return forward if isinstance(forward, SmoothForward) else SmoothForward(forward, beta)


def _refuse_unsmoothable(attribution: Attribution) -> None:
    if isinstance(attribution, _NOT_SMOOTHABLE):
        raise TypeError(
            f"{type(attribution).__name__} cannot be beta-smoothed: it applies rectifiers of its "
            "own to weights or gradients. Use GuidedBackprop, RelevancePropagation or "
            "PatternAttribution of captum_robust.attr, or a gradient method."
        )
    require_eager(attribution.forward_func)
    for held in vars(attribution).values():
        if isinstance(held, Attribution):
            _refuse_unsmoothable(held)
