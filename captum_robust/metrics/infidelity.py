"""How faithful an explanation is to the model: what it says a change costs, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum.metrics import infidelity as captum_infidelity
from torch import Tensor

from captum_robust._utils.batching import copies_at_once
from captum_robust._utils.checks import check_count
from captum_robust._utils.forward import check_rows, explained_output, logits_of, signature_of
from captum_robust._utils.model_state import preserve_buffers
from captum_robust.perturbations import Perturbation, Points


def infidelity(
    forward_func: Callable[..., Any],
    perturbation: Perturbation,
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    baselines: Any = None,
    target: Any = None,
    additional_forward_args: Any = None,
    feature_mask: Tensor | tuple[Tensor, ...] | None = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
    multiply_by_inputs: bool | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Expected squared error of an explanation's account of perturbations.

    .. math:: \mathrm{INFD}(\phi, f, x) = E_I \left(I^\top \phi - (f(x) - f(x - I))\right)^2

    It is :func:`captum.metrics.infidelity` on draws from ``perturbation``: the same sign, the same
    numbers for the same draws. The least value that is possible is that of
    :class:`captum_robust.attr.InfidelityOptimal`. Yeh et al. 2019, Definition 2.1.

    Args:
        forward_func: The model, or any function that calls it.
        perturbation: One of :mod:`captum_robust.perturbations`.
        inputs: x, tensor or tuple of tensors, examples along dimension 0.
        attributions: phi, of the shapes of ``inputs``.
        baselines: x0: None (0), a number, a tensor, or a tuple, as in ``attribute``.
        target: The class that is explained, as in Captum.
        additional_forward_args: Further arguments of ``forward_func``, as in Captum.
        feature_mask: Groups of features that are removed together, where the perturbation removes
            groups.
        n_perturb_samples: Draws of I for each example.
        max_examples_per_batch: Perturbed inputs that the model is given at once; the result does
            not depend on it. None: what suits the device.
        normalize: Whether each explanation is scaled as serves it best, by
            :math:`E[I^\top\phi\,d] / E[(I^\top\phi)^2]`, so that its scale does not count.
        multiply_by_inputs: Whether the attributions are global; None: the perturbation's natural
            form, global for removals and ``BaselineShift``, local for the others.
        generator: Where random numbers come from; None draws from a fresh, unpredictable one.

    Returns:
        (N,), in the squared unit of the output.

    Raises:
        TypeError: ``perturbation`` is no ``Perturbation``.
        ValueError: ``inputs`` or ``attributions`` is empty, integer, NaN or Inf; a shape does not
            fit; a count is below one; or the model returned NaN or Inf.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import infidelity
        >>> from captum_robust.perturbations import FeatureRemoval
        >>> x, weights = torch.tensor([[1.0, 2.0]]), torch.tensor([3.0, 4.0])
        >>> infidelity(lambda x: x @ weights, FeatureRemoval(), x, weights * x)
        tensor([0.])
    """
    if not isinstance(perturbation, Perturbation):
        raise TypeError(
            "perturbation must be one of captum_robust.perturbations, got "
            f"{type(perturbation).__name__}. For a perturb_func there is captum.metrics.infidelity."
        )
    check_count(n_perturb_samples=n_perturb_samples)
    perturbation.check_feature_mask(feature_mask)
    points = Points.of(inputs, baselines, feature_mask)
    explained = _explained_like(attributions, points)
    n_copies = copies_at_once(points.inputs, None)
    if max_examples_per_batch is not None:
        check_count(max_examples_per_batch=max_examples_per_batch)
        n_copies = max(1, max_examples_per_batch // len(points))
    perturb_func = perturbation.perturb_func(
        generator,
        n_examples=len(points),
        feature_mask=points.feature_mask,
        multiply_by_inputs=multiply_by_inputs,
    )
    forward = _once_at(points.inputs, forward_func)
    with preserve_buffers(forward_func):
        with torch.no_grad():  # Captum does not ask whether one number per example is explained.
            explained_output(forward, points.inputs, target, additional_forward_args)
        values = captum_infidelity(
            forward,
            perturb_func,
            points.inputs,
            explained,
            points.baselines,
            additional_forward_args,
            target,
            n_perturb_samples,
            len(points) * min(n_copies, n_perturb_samples),
            normalize,
        )
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            "forward_func returned NaN or Inf, or values too large for its precision. Check that "
            "the model can take the baselines; explain logits in place of log-probabilities."
        )
    return values


def _explained_like(attributions: Any, points: Points) -> tuple[Tensor, ...]:
    """The attributions without a graph, if they fit the inputs."""
    tensors = attributions if isinstance(attributions, tuple) else (attributions,)
    strange = [type(a).__name__ for a in tensors if not isinstance(a, Tensor)]
    if strange:
        raise TypeError(
            f"attributions must be a tensor or a tuple of tensors, got {', '.join(strange)}."
        )
    wanted, given = ([tuple(t.shape) for t in ts] for ts in (points.inputs, tensors))
    if wanted != given:
        raise ValueError(
            f"attributions must have the shapes of inputs, {wanted}, got {given}. Explain the "
            "inputs themselves, not a layer."
        )
    integer = [a.dtype for a in tensors if not a.is_floating_point()]
    if integer:
        raise ValueError(f"attributions must be floating-point, got {integer[0]}; use .float().")
    if not all(bool(torch.isfinite(a).all()) for a in tensors):
        raise ValueError("attributions has NaN or Inf. Find it with torch.isfinite(attributions).")
    return tuple(a.detach() for a in tensors)


def _once_at(inputs: tuple[Tensor, ...], forward_func: Callable[..., Any]) -> Callable[..., Tensor]:
    """``forward_func``, which is run but once for the inputs, where Captum asks for each batch."""
    known: list[Tensor] = []

    def forward(*args: Any) -> Tensor:
        clean = all(a is x for a, x in zip(args, inputs, strict=False))
        if clean and known:
            return known[0]
        output = logits_of(forward_func(*args))
        check_rows(output, len(args[0]))
        known.extend([output] * clean)
        return output

    forward.__signature__ = signature_of(forward_func)  # type: ignore[attr-defined]
    return forward
