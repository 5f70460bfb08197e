"""How faithful an explanation is to the model: what it says a change costs, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from captum_robust._utils.batching import copies_at_once, widest
from captum_robust._utils.checks import check_count
from captum_robust._utils.explained_output import ExplainedOutput
from captum_robust._utils.randomness import fresh_generator
from captum_robust._utils.types import Tensors
from captum_robust.perturbations import Perturbation, Points
from captum_robust.perturbations.points import Baselines, FeatureMask, flat


def infidelity(
    forward_func: Callable[..., Any],
    perturbation: Perturbation,
    inputs: Tensor | Tensors,
    attributions: Tensor | Tensors,
    baselines: Baselines = None,
    target: Any = None,
    additional_forward_args: Any = None,
    feature_mask: FeatureMask = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
    multiply_by_inputs: bool | None = None,
    generator: torch.Generator | None = None,
    show_progress: bool = False,
) -> Tensor:
    r"""Expected squared error of an explanation's account of perturbations.

    .. math:: \mathrm{INFD}(\phi, f, x) = E_I \left(I^\top \phi - (f(x) - f(x - I))\right)^2

    It is :func:`captum.metrics.infidelity` on draws from ``perturbation``: the same sign, and the
    same numbers for the same draws up to rounding. The least value that is possible is that of
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
        normalize: Whether each explanation is multiplied by the scale that suits it best,
            :math:`E[I^\top\phi\,d] / E[(I^\top\phi)^2]`, so that its scale does not count.
        multiply_by_inputs: Whether the attributions are global; None: the perturbation's natural
            form, global for removals and ``BaselineShift``, local for the others.
        generator: Where random numbers come from; None draws from a fresh, unpredictable one.
        show_progress: Whether to show a bar.

    Returns:
        (N,), in the squared unit of the output. Sums are formed in double precision; the result has
        the dtype of the attributions, at least float32.

    Raises:
        TypeError: ``perturbation`` is not a ``Perturbation``.
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
    stream = perturbation.stream(points, fresh_generator(generator), multiply_by_inputs)
    output = ExplainedOutput(forward_func, points.inputs, target, additional_forward_args)
    accounts: list[Tensor] = []

    def perturbed() -> Iterator[Tensors]:
        for start in range(0, n_perturb_samples, n_copies):
            multipliers, copies = stream.take(min(n_copies, n_perturb_samples - start))
            accounts.append(_account(multipliers, explained))
            yield copies

    differences = output.output_differences(perturbed(), n_perturb_samples, show_progress)
    account = torch.cat(accounts, dim=1)
    if normalize:
        account = account * _best_scale(account, differences)
    dtype = reduce(torch.promote_types, [a.dtype for a in explained], torch.float32)
    return (account - differences).square().mean(1).to(dtype)


def _account(multipliers: Tensors, attributions: Tensors) -> Tensor:
    """I'phi, what the explanation says that each perturbation costs, (N, n) from (N, n, ...)."""
    total = None
    for m, a in zip(multipliers, attributions, strict=True):
        dtype = widest(m.device)
        said = torch.bmm(flat(m, 2).to(dtype), flat(a).to(dtype).unsqueeze(2)).squeeze(2)
        total = said if total is None else total + said
    assert total is not None
    return total


def _best_scale(account: Tensor, differences: Tensor) -> Tensor:
    """The factor of least squares for each example, (N, 1); 0 for an account of zeros.

    The squared error is formed from residuals afterwards. The shorter
    E[d^2] - E[account d]^2 / E[account^2] is the difference of two numbers that agree in all
    digits where the explanation is good.
    """
    products = (account * differences).sum(1, keepdim=True)
    squares = account.square().sum(1, keepdim=True)
    return torch.where(squares > 0, products / torch.where(squares > 0, squares, 1.0), 0.0)


def _explained_like(attributions: Tensor | Tensors, points: Points) -> Tensors:
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
