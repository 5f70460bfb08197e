"""Beta smoothing: explain the network with its kinks rounded off."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
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

from captum_robust._utils.captum import attribute_detached, logits_of, map_forward
from captum_robust.attr.differentiable import differentiable
from captum_robust.attr.softplus import softplus_activations

# Their hooks and rules call rectifiers of their own, or never call ``forward_func``.
_NOT_SMOOTHABLE = (LRP, GuidedBackprop, Deconvolution, GuidedGradCam)


class BetaSmoothing(Attribution):
    r"""Any Captum explanation of the network with softplus in place of its rectifiers.

    .. math:: \phi_\beta(f, x) = \phi(f[\mathrm{relu} \to \mathrm{softplus}_\beta], x)

    Used like :class:`captum.attr.NoiseTunnel`, around it or inside it. It costs one run of the
    wrapped method, where SmoothGrad costs one per noise sample. The model is left as it is, and
    only its forward pass is smoothed, never the arithmetic of the explanation itself. Of nested
    smoothings the outermost counts: inside it no rectifier is left to smooth.

    Args:
        attribution_method: The Captum explanation to smooth.
        beta: Sharpness of the softplus (see :class:`softplus_activations`); about 1 works well.

    Raises:
        ValueError: ``beta`` is not a positive finite number.
        TypeError: ``attribution_method`` is no ``Attribution``, is one that cannot be smoothed
            (LRP, GuidedBackprop, Deconvolution), or its model is scripted, compiled or parallel.

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
        if not isinstance(attribution_method, Attribution):
            raise TypeError(
                "attribution_method must be a captum Attribution, got "
                f"{type(attribution_method).__name__}. Wrap the model: Saliency(model)."
            )
        _refuse_unsmoothable(attribution_method)
        softplus_activations(beta)
        super().__init__(attribution_method.forward_func)
        self.attribution_method = attribution_method
        self.beta = beta

    @log_usage()
    def attribute(self, inputs: Tensor | tuple[Tensor, ...], **kwargs: Any) -> Any:
        """Explain ``inputs``; arguments and result are those of the wrapped method.

        Args:
            inputs: Tensor or tuple of tensors, examples along dimension 0.
            **kwargs: Handed to the wrapped method (``target``, ``baselines``, ...).

        Returns:
            What the wrapped method returns: attributions of the shapes of ``inputs``.

        Warns:
            UserWarning: The model called no rectifier, so nothing was smoothed.
        """
        return attribute_detached(self._smoothed(), inputs, **kwargs)

    def attribute_with_graph(self, inputs: Tensor | tuple[Tensor, ...], **kwargs: Any) -> Any:
        """Like :meth:`attribute`, with a graph; the protocol of :func:`differentiable`."""
        return differentiable(self._smoothed())(inputs, **kwargs)

    def _smoothed(self) -> Attribution:
        smoothed = map_forward(
            self.attribution_method, lambda forward: SmoothForward(forward, self.beta)
        )
        # DeepLift hooks and calls its own reference to the model.
        if isinstance(getattr(smoothed, "model", None), nn.Module):
            smoothed.model = _SmoothModule(smoothed.model, self.beta)
        return smoothed

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
    r"""Gradient of the network with softplus in place of its rectifiers.

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
        SmoothForward(forward_func, beta)
        super().__init__(forward_func)
        self.beta = beta

    @log_usage()
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        abs: bool = False,
        additional_forward_args: Any = None,
    ) -> Any:
        """Explain ``inputs``.

        Args:
            inputs: Tensor or tuple of tensors, examples along dimension 0.
            target: The class to explain, as in Captum.
            abs: Whether to return absolute values.
            additional_forward_args: Further arguments of ``forward_func``, as in Captum.

        Returns:
            Gradients of the shapes, dtypes and devices of ``inputs``.

        Warns:
            UserWarning: The model called no rectifier, so nothing was smoothed.
        """
        return self._smoothing().attribute(
            inputs, target=target, abs=abs, additional_forward_args=additional_forward_args
        )

    def attribute_with_graph(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        abs: bool = False,
        additional_forward_args: Any = None,
    ) -> Any:
        """Like :meth:`attribute`, with a graph; the protocol of :func:`differentiable`."""
        return self._smoothing().attribute_with_graph(
            inputs, target=target, abs=abs, additional_forward_args=additional_forward_args
        )

    def _smoothing(self) -> BetaSmoothing:
        return BetaSmoothing(Saliency(self.forward_func), self.beta)


class SmoothForward:
    """A forward function that computes softplus in place of rectifiers; the original is kept.

    It is what :class:`BetaSmoothing` hands to the wrapped method in place of ``forward_func``.
    """

    def __init__(self, forward: Callable[..., Any], beta: float) -> None:
        _refuse_unseen(forward)
        self.forward = forward
        self.beta = beta
        # Captum asks a forward function how many arguments it takes.
        self.__signature__ = inspect.signature(forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The smoothed network's output, unwrapped."""
        with softplus_activations(self.beta) as smoothing:
            output = logits_of(self.forward(*args, **kwargs))
        if not smoothing.replaced:
            warnings.warn(
                "beta smoothing met no rectifier in the forward pass, so this explanation is the "
                "unsmoothed one. Expected of a network without rectifiers; otherwise the model is "
                "scripted, compiled, or spells them in a way that cannot be seen.",
                UserWarning,
                stacklevel=2,
            )
        return output


class _SmoothModule(nn.Module):
    """:class:`SmoothForward` for methods that need a module with the model's own submodules."""

    def __init__(self, model: nn.Module, beta: float) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._beta = beta

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return SmoothForward(self.model, self._beta)(*args, **kwargs)


def _refuse_unsmoothable(attribution: Attribution) -> None:
    if isinstance(attribution, _NOT_SMOOTHABLE):
        raise TypeError(
            f"{type(attribution).__name__} cannot be beta-smoothed: it applies rectifiers of its "
            "own to weights or gradients. Use Saliency, InputXGradient or IntegratedGradients."
        )
    wrapped = getattr(attribution, "attribution_method", None)
    if isinstance(wrapped, Attribution):
        _refuse_unsmoothable(wrapped)
    else:
        _refuse_unseen(attribution.forward_func)


def _refuse_unseen(forward: Callable[..., Any]) -> None:
    """Refuse what runs where a torch function mode of this thread is blind."""
    owner = forward if isinstance(forward, nn.Module) else getattr(forward, "__self__", forward)
    modules = owner.named_modules() if isinstance(owner, nn.Module) else [("", owner)]
    for path, module in modules:
        reason = _unseen(module)
        if reason:
            raise TypeError(
                f"forward_func: {path or type(module).__name__!r} is {reason}, so its rectifiers "
                "cannot be smoothed from outside. Pass the original eager, single-device model."
            )


def _unseen(module: Any) -> str | None:
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return "scripted"
    compiled_in_place = getattr(module, "_compiled_call_impl", None) is not None
    if compiled_in_place or hasattr(module, "_torchdynamo_orig_callable"):
        return "compiled"
    if hasattr(module, "_orig_mod"):
        return "compiled"
    if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
        return "split over several devices by threads"
    return None
