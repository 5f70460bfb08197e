"""Explain and take the relevance map, in one call."""

from __future__ import annotations

from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor

from captum_robust._utils.attributions import attribute_detached, innermost
from captum_robust._utils.captum import format_inputs, format_output
from captum_robust._utils.checks import check_attribution, check_inputs
from captum_robust._utils.forward import logits_of
from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.relevance import relevance_map
from captum_robust._utils.types import TensorOrTensors, Tensors
from captum_robust.metrics._explainer import method_and_arguments
from captum_robust.outputs import Outputs, resolve


@outside_inference_mode
def explained_relevance(
    explanation: Any,
    inputs: TensorOrTensors,
    labels: Tensor | int | None = None,
    *,
    channel_dim: int | None = None,
    output: Outputs | None = None,
    **kwargs: Any,
) -> TensorOrTensors:
    r"""The relevance map of what an explanation says about inputs.

    .. math:: r_p = \frac{\sum_c |\phi_{cp}|}{\sum_q \sum_c |\phi_{cq}|}, \quad
              \phi = \phi(f_{\mathrm{label}}, x)

    The same as :func:`relevance_map` of ``explanation.attribute(inputs, target=labels)``, without
    a graph, and with nothing left behind: ``requires_grad`` of the inputs, gradients and buffers
    are as before.

    Args:
        explanation: A Captum ``Attribution``, its ``attribute``, or a partial of that.
        inputs: (N, ...), or a tuple of these.
        labels: The class that is explained, one for all or (N,); None: the predicted one.
        channel_dim: As in :func:`relevance_map`.
        output: What the model's outputs mean (:mod:`captum_robust.outputs`); None: logits of
            classes, or one number, which is explained.
        **kwargs: Handed to the explanation, such as ``n_steps`` or ``additional_forward_args``.

    Returns:
        (N, F) for tables, else the shape of ``inputs`` without channels; of a tuple a tuple, of
        which each map sums to one.

    Raises:
        TypeError, ValueError: See :func:`relevance_map`; or ``explanation`` is not a Captum
            ``Attribution``, ``labels`` are not classes of the model, ``inputs`` are empty, NaN or
            Inf.

    Example:
        >>> import torch
        >>> from captum.attr import InputXGradient
        >>> from captum_robust.metrics import explained_relevance
        >>> model = lambda x: torch.stack([3 * x[:, 0] - x[:, 1], 0 * x[:, 0]], dim=1)
        >>> explained_relevance(InputXGradient(model), torch.tensor([[1.0, 1.0]]))
        tensor([[0.7500, 0.2500]])
    """
    method, bound = method_and_arguments(explanation)
    check_attribution(explanation if method is None else method, "explanation")
    assert method is not None
    if "target" in kwargs:
        raise TypeError("target: here its name is labels. Pass labels=.")
    check_inputs(inputs)
    arguments = {**bound, **kwargs}
    target = _target(method, inputs, labels, output, arguments.get("additional_forward_args"))
    attributions = attribute_detached(method, inputs, target=target, **arguments)
    is_tuple, parts = format_inputs(attributions)
    maps = tuple(relevance_map(a, channel_dim) for a in parts)
    return format_output(is_tuple, maps)


def _target(
    method: Attribution,
    inputs: Tensor | Tensors,
    labels: Tensor | int | None,
    output: Outputs | None,
    additional_forward_args: Any,
) -> Tensor | int | None:
    """Captum's ``target``; the model is asked only where the labels do not say it."""
    if labels is not None and output is None:
        return labels
    forward_func = innermost(method).forward_func
    x = format_inputs(inputs)[1]
    given = additional_forward_args
    extra = () if given is None else given if isinstance(given, tuple) else (given,)
    with torch.no_grad(), preserve_buffers(forward_func):
        # Clones, since a model may write into what it is given.
        logits = logits_of(forward_func(*(t.detach().clone() for t in x), *extra))
    n = len(x[0])
    if output is None and logits.numel() == n:
        return None  # one number, of any meaning, is what is explained
    meaning = resolve(output, logits, n)
    wanted = None if labels is None else torch.as_tensor(labels, device=logits.device).expand(n)
    return meaning.target(logits, wanted)
