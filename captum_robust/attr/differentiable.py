"""Explanations whose graph survives, so that attacks and trainers can differentiate them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, Protocol, runtime_checkable

import torch
from captum.attr import (
    LRP,
    Attribution,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Saliency,
)
from torch import Tensor

from captum_robust._utils.attributions import innermost, map_forward, use_gradients
from captum_robust._utils.captum import (
    approximation_parameters,
    format_inputs,
    format_inputs_and_baselines,
    format_output,
    validate_path,
)
from captum_robust._utils.checks import check_batch, check_count, check_floating_inputs
from captum_robust._utils.forward import compute_gradients, unwrapped
from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.sound_gradients import sound_gradients

Attributions = Any
"""A tensor for a tensor of inputs, a tuple of tensors for a tuple."""


@runtime_checkable
class HasGraph(Protocol):
    """What an explanation of your own implements to be accepted by :func:`differentiable`."""

    def attribute_with_graph(self, inputs: Any, *args: Any, **kwargs: Any) -> Attributions:
        """Like ``attribute``; the result must pass ``torch.autograd.gradcheck`` in float64."""


def differentiable(attribution_method: Attribution) -> Callable[..., Attributions]:
    """Return the attribution method as a function whose result can be differentiated.

    Captum detaches some attributions and gives others a graph with a wrong gradient. This function
    returns the same values with a graph that passes ``torch.autograd.gradcheck``, or refuses.

    Supported are Captum's Saliency, InputXGradient, IntegratedGradients (``internal_batch_size``
    cuts the passes; the graph of all of them is kept) and LayerGradCam; and every class with a
    method ``attribute_with_graph``, as BetaSmoothing, BetaSmoothedGradient, KernelSmoothing,
    GuidedBackprop, RelevancePropagation and PatternAttribution of this package, in any nesting.

    Of a network of rectifiers the second derivative is zero almost everywhere, and so is most of
    what comes back through the graph: smooth it (:class:`BetaSmoothing`) to learn something.

    Args:
        attribution_method: The Captum explanation.

    Returns:
        A function ``(inputs, **kwargs)`` with the arguments and the result of ``attribute``.

    Raises:
        TypeError: No correct graph can be given; the message names what to use instead.

    Example:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from captum_robust.attr import differentiable
        >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> explain = differentiable(Saliency(lambda x: (x**3).sum(1)))
        >>> explain(x)
        tensor([[ 3., 12.]], grad_fn=<AbsBackward0>)
        >>> torch.autograd.grad(explain(x).sum(), x)
        (tensor([[ 6., 12.]]),)
    """
    if isinstance(attribution_method, HasGraph) and not _overtaken(type(attribution_method)):
        wrapped = getattr(attribution_method, "attribution_method", None)
        if wrapped is not None:
            differentiable(wrapped)  # refuse now what would be refused on the first call
        return _graph_enabled(
            attribution_method.attribute_with_graph, innermost(attribution_method)
        )
    for supported, with_graph in _WITH_GRAPH.items():
        # A subclass that explains in its own way is not known to be right.
        if getattr(type(attribution_method), "attribute", None) is supported.attribute:
            clone = use_gradients(attribution_method, partial(compute_gradients, create_graph=True))
            if clone is attribution_method:
                break
            return _graph_enabled(partial(with_graph, clone), clone)
    raise TypeError(_refusal(attribution_method))


def _graph_enabled(
    explain: Callable[..., Attributions], inner: Attribution
) -> Callable[..., Attributions]:
    @outside_inference_mode
    def run(inputs: Tensor | tuple[Tensor, ...], *args: Any, **kwargs: Any) -> Attributions:
        if kwargs.pop("return_convergence_delta", False):
            raise ValueError(
                "return_convergence_delta is not available with a graph. Call attribute() for it."
            )
        check_batch(inputs)
        check_floating_inputs(inputs)
        is_tuple, tensors = format_inputs(inputs)
        # Captum would switch requires_grad on in the caller's own tensors, with a warning.
        ready = tuple(x if x.requires_grad else x.detach().requires_grad_() for x in tensors)
        with torch.enable_grad(), sound_gradients(2), preserve_buffers(inner.forward_func):
            return explain(format_output(is_tuple, ready), *args, **kwargs)

    return run


def _overtaken(cls: type) -> bool:
    """Whether a subclass overrides ``attribute`` and inherits ``attribute_with_graph``."""
    explains, graph = (
        next((base for base in cls.__mro__ if name in vars(base)), cls)
        for name in ("attribute", "attribute_with_graph")
    )
    return explains is not graph and issubclass(explains, graph)


def _attribute(method: Attribution, inputs: Any, *args: Any, **kwargs: Any) -> Attributions:
    return method.attribute(inputs, *args, **kwargs)


def _integrated_gradients(
    explanation: IntegratedGradients,
    inputs: Tensor | tuple[Tensor, ...],
    baselines: Any = None,
    target: Any = None,
    additional_forward_args: Any = None,
    n_steps: int = 50,
    method: str = "gausslegendre",
    internal_batch_size: int | None = None,
) -> Attributions:
    """Captum's sum over the path, in chunks that all keep their graph (Captum's own detach)."""
    is_tuple, _ = format_inputs(inputs)
    tensors, base = format_inputs_and_baselines(inputs, baselines)
    validate_path(tensors, base, n_steps, method)
    step_sizes, alphas = (values(n_steps) for values in approximation_parameters(method))
    if internal_batch_size is not None:
        check_count(internal_batch_size=internal_batch_size)
    chunk = n_steps if internal_batch_size is None else internal_batch_size // len(tensors[0])
    chunk = max(1, chunk)
    total: tuple[Tensor, ...] | None = None
    for start in range(0, n_steps, chunk):
        steps = slice(start, start + chunk)
        part = explanation._attribute(
            inputs=tensors,
            baselines=base,
            target=target,
            additional_forward_args=additional_forward_args,
            n_steps=len(alphas[steps]),
            method=method,
            step_sizes_and_alphas=(step_sizes[steps], alphas[steps]),
        )
        total = part if total is None else tuple(a + b for a, b in zip(total, part, strict=True))
    return format_output(is_tuple, total)


def _layer_grad_cam(
    explanation: LayerGradCam, inputs: Tensor | tuple[Tensor, ...], *args: Any, **kwargs: Any
) -> Attributions:
    """Captum's own, whose gradients of the layer keep their graph."""
    given = signature(LayerGradCam.attribute).bind(explanation, inputs, *args, **kwargs)
    options = given.arguments
    rectified = options.pop("relu_attributions", False)
    options["grad_kwargs"] = {**(options.get("grad_kwargs") or {}), "create_graph": True}
    del options["self"]
    maps = map_forward(explanation, unwrapped).attribute(**options)
    if not rectified:
        return maps
    # Spelled out: it is not a rectifier of the network, so it stays when the network is smoothed.
    is_tuple, tensors = format_inputs(maps)
    return format_output(is_tuple, tuple(torch.where(m > 0, m, 0.0) for m in tensors))


_WITH_GRAPH: dict[type[Attribution], Callable[..., Attributions]] = {
    Saliency: _attribute,
    InputXGradient: _attribute,
    IntegratedGradients: _integrated_gradients,
    LayerGradCam: _layer_grad_cam,
}


def _refusal(method: Any) -> str:
    if not isinstance(method, Attribution):
        return (
            f"attribution_method must be a captum Attribution, got {type(method).__name__}. "
            "Wrap the model: Saliency(model)."
        )
    remedy = (
        "Use Saliency, InputXGradient, IntegratedGradients, BetaSmoothing or KernelSmoothing, or "
        "give the class a method attribute_with_graph."
    )
    if isinstance(method, NoiseTunnel):
        remedy = "Use captum_robust.attr.KernelSmoothing, which does the same and keeps the graph."
    if isinstance(method, (GuidedBackprop, LRP)):
        ours = "GuidedBackprop" if isinstance(method, GuidedBackprop) else "RelevancePropagation"
        remedy = f"Use captum_robust.attr.{ours}, which keeps the graph."
    if isinstance(method, GradientShap):
        remedy = "Use KernelSmoothing(IntegratedGradients(model)), which keeps the graph."
    return (
        f"{type(method).__name__} has no correct graph: its result is detached, or its gradient "
        f"would be wrong. {remedy}"
    )
