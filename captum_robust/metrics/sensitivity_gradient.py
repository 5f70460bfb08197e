"""How steep an explanation is in a small ball: the spectral norm of its Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.batching import copies_per_batch, split
from captum_robust._utils.captum import format_inputs, format_output
from captum_robust._utils.checks import (
    check_count,
    check_floating_inputs,
    check_inputs,
    check_positive,
)
from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.randomness import fresh_generator, seed_from, standard_normal
from captum_robust._utils.types import Tensors
from captum_robust._utils.user_warnings import warn_user
from captum_robust.attr import differentiable
from captum_robust.metrics._eigenvalues import Products, largest_singular_values
from captum_robust.metrics._explainer import Arguments, method_and_arguments
from captum_robust.metrics._neighbourhood import Neighbours, draw_copies


@outside_inference_mode
def sensitivity_gradient(
    attribution_method: Attribution,
    inputs: Tensor | Tensors,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    *,
    n_iterations: int = 300,
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
    show_progress: bool = False,
    **kwargs: Any,
) -> Tensor:
    r"""Largest spectral norm of the explanation's Jacobian in a ball: Yeh et al. 2019, Eq. 3.

    .. math:: \max_j \lVert\nabla_x \phi(x + \delta_j)\rVert_2, \quad \delta_0 = 0, \quad
              \delta_j \sim U[-r, r]^d

    over the inputs themselves and points of the L-inf ball: a lower bound of the supremum. Power
    iteration with products of J and J' only, the Jacobian is never built.

    Args:
        attribution_method: What :func:`~captum_robust.attr.differentiable` accepts.
        inputs: Tensor or tuple of tensors, (N, ...) each; the Jacobian is by all of them together.
        perturb_radius: r, in the unit of the inputs; 0 takes the inputs alone.
        n_perturb_samples: Points for each example beside the example itself.
        max_examples_per_batch: Points worked on at once, at least one per example; None: a
            number that is fast.
        n_iterations: Largest number of iterations.
        tolerance: A point is done when :math:`|J'J v - s^2 v|_2 \le` ``tolerance`` :math:`s^2`. The
            error of s, never above the true one, is usually of the order of its square.
        generator: Source of points and first vectors; None draws fresh ones.
        show_progress: Whether to show a bar.
        **kwargs: Handed to the explanation; what belongs to an example is repeated.

    Returns:
        (N,), at least float32, in units of the explanation per unit of the inputs.

    Raises:
        TypeError, ValueError: See :mod:`captum_robust.metrics`.

    Warns:
        UserWarning: The Jacobian is zero (as of the gradient of rectifiers), or ``n_iterations``
            did not do.

    Example:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from captum_robust.metrics import sensitivity_gradient
        >>> cubes = Saliency(lambda x: (x**3).sum(1))  # its Jacobian is diag(6 |x|)
        >>> sensitivity_gradient(cubes, torch.tensor([[1.0, -2.0]]), perturb_radius=0)
        tensor([12.0000])
    """
    method, bound = method_and_arguments(attribution_method)
    method = attribution_method if method is None else method
    explain = differentiable(method)
    check_count(n_perturb_samples=n_perturb_samples, n_iterations=n_iterations)
    x, is_tuple = _checked(inputs, perturb_radius, tolerance)
    generator = fresh_generator(generator, x[0].device)
    arguments = Arguments(method, bound, kwargs, generator)
    chunk = copies_per_batch(n_perturb_samples, max_examples_per_batch, x)

    def at_once() -> int:
        return 1 if arguments.draws else chunk  # noise has the shape of the batch

    found = []
    forward_func = getattr(method, "forward_func", None)
    total = 1 + (n_perturb_samples if perturb_radius > 0 else 0)
    with (
        tqdm(total=total, desc="sensitivity_gradient", disable=not show_progress) as bar,
        preserve_buffers(forward_func),
    ):
        for points, starts, copies in _points(x, perturb_radius, total - 1, at_once, generator):
            extra = arguments.expanded(x, copies)
            with arguments.same_draws():
                product = _jacobian_products(partial(_explained, explain, is_tuple, extra), points)
            found.append(_norms(product, starts, n_iterations, tolerance, copies))
            bar.update(copies)
    values, done = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    largest = values.amax(1)
    _warn(largest, done, n_iterations)
    dtype = max((t.dtype for t in x), key=lambda dtype: torch.finfo(dtype).bits)
    return largest.to(torch.promote_types(dtype, torch.float32))


def _points(
    inputs: Tensors,
    radius: float,
    n_samples: int,
    at_once: Callable[[], int],
    generator: torch.Generator,
) -> Iterator[tuple[Tensors, Tensors, int]]:
    """The inputs, then random points around them, each with a random first vector."""
    # Two streams, so that neither depends on how many copies the other draws at once.
    for_starts = torch.Generator(generator.device).manual_seed(seed_from(generator))
    first = draw_copies(standard_normal, inputs, 1, for_starts)
    yield inputs, tuple(s.flatten(0, 1) for s in first), 1
    if n_samples == 0:
        return
    neighbours = Neighbours(inputs, None, radius, generator)
    for copies in split(n_samples, at_once()):
        starts = draw_copies(standard_normal, inputs, copies, for_starts)
        yield neighbours.draw(copies), tuple(s.flatten(0, 1) for s in starts), copies


def _explained(
    explain: Callable[..., Any], is_tuple: bool, kwargs: dict[str, Any], points: Tensors
) -> Tensors:
    return format_inputs(explain(format_output(is_tuple, points), **kwargs))[1]


def _jacobian_products(explain: Callable[[Tensors], Tensors], points: Tensors) -> Products | None:
    """The map from v to J'J v, one Jacobian per row; None if the explanation is constant there.

    ``explain`` is called once. Two backward passes through its graph multiply by J and by J': that
    by J differentiates g(w) = J'w, which is linear in w, with respect to w.
    """
    with torch.enable_grad():
        x = tuple(p.detach().requires_grad_() for p in points)
        explanation = tuple(e for e in explain(x) if e.requires_grad)
        if not explanation:
            return None
        w = tuple(torch.zeros_like(e, requires_grad=True) for e in explanation)
        g = torch.autograd.grad(explanation, x, w, create_graph=True, materialize_grads=True)
    with_graph = [i for i, part in enumerate(g) if part.requires_grad]
    if not with_graph:
        return None

    def forward(v: Tensors) -> Tensors:
        return torch.autograd.grad(
            tuple(g[i] for i in with_graph),
            w,
            tuple(v[i] for i in with_graph),
            retain_graph=True,
            materialize_grads=True,
        )

    def backward(u: Tensors) -> Tensors:
        return torch.autograd.grad(explanation, x, u, retain_graph=True, materialize_grads=True)

    return lambda v: backward(forward(v))


def _norms(
    product: Products | None, starts: Tensors, n_iterations: int, tolerance: float, copies: int
) -> tuple[Tensor, Tensor]:
    """Spectral norms and whether they converged, (N, copies) each."""
    if product is None:
        zeros = starts[0].new_zeros(len(starts[0])).unflatten(0, (-1, copies))
        return zeros, torch.ones_like(zeros, dtype=torch.bool)
    values, done = largest_singular_values(product, starts, n_iterations, tolerance)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            "attribution_method has a Jacobian with NaN or Inf. Find the cause with "
            "torch.isfinite on the derivatives of the model, or explain in float64."
        )
    return values.unflatten(0, (-1, copies)), done.unflatten(0, (-1, copies))


def _checked(inputs: Any, radius: Any, tolerance: float) -> tuple[Tensors, bool]:
    check_inputs(inputs)
    if radius != 0:
        check_positive(perturb_radius=radius)
    check_positive(tolerance=tolerance)
    is_tuple, tensors = format_inputs(inputs)
    check_floating_inputs(tensors)
    return tuple(t.detach() for t in tensors), is_tuple


def _warn(largest: Tensor, done: Tensor, n_iterations: int) -> None:
    zero = largest == 0
    if zero.any():
        warn_user(
            f"the explanation's Jacobian is zero for {int(zero.sum())} of {len(zero)} examples. "
            "The second derivative of rectifiers is zero almost everywhere, though the gradient "
            "jumps: explain with BetaSmoothing, or use sensitivity_max."
        )
    if not done.all():
        warn_user(
            f"power iteration stopped after n_iterations={n_iterations} at "
            f"{int((~done).sum())} of {done.numel()} points before tolerance was reached: the "
            "result may be too small. Raise n_iterations, or tolerance."
        )
