"""Does an explanation depend on what the network has learned?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_robust._utils.captum import format_inputs, format_output
from captum_robust._utils.checks import check_inputs
from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust._utils.randomness import fresh_generator, seed_from
from captum_robust._utils.types import Tensors
from captum_robust._utils.user_warnings import warn_user
from captum_robust.metrics._explainer import Explainer, method_and_arguments
from captum_robust.metrics._pairs import compare_pairs
from captum_robust.metrics._reinitialize import has_parameters, parameters_kept, reinitialize
from captum_robust.metrics.correlation import rank_correlation


class RankCorrelations(NamedTuple):
    """Spearman's rank correlations of two explanations, (N,) each."""

    signed: Tensor
    absolute: Tensor


@outside_inference_mode
def parameter_randomization(
    explanation_func: Any,
    inputs: Tensor | Tensors,
    model: nn.Module | None = None,
    *,
    layers: Sequence[str] | None = None,
    cumulative: bool = True,
    generator: torch.Generator | None = None,
    show_progress: bool = False,
    **kwargs: Any,
) -> dict[str, RankCorrelations]:
    r"""Rank correlation of the explanations of a model and of the model with random layers.

    The sanity check of Adebayo et al. 2018: from the output layer down, one layer after the other
    gets new random parameters, and the explanations of the original and of the randomised model
    are compared. An explanation that stays the same does not depend on what was learned. Yeh et al.
    2019, Table 2, randomise the last layer: ``layers=["fc"]``.

    A layer is a module with parameters of its own, in the reverse order of ``named_modules()``. New
    parameters come from its ``reset_parameters()``. Those that it does not set (the projection of
    attention, a class token) are drawn from a normal distribution with their old mean and standard
    deviation.

    Args:
        explanation_func: An ``Attribution``, its ``attribute``, or any function of the inputs that
            explains ``model``.
        inputs: Tensor or tuple of tensors, (N, ...) each.
        model: The network to randomise; None: the ``forward_func`` of the ``Attribution``.
        layers: Names of modules as in ``named_modules()``, each with all that is in it, to
            randomise in this order; None: all layers from the last to the first.
        cumulative: Whether what was randomised stays so while later layers are.
        generator: Source of the parameters; None draws fresh ones, the global state stays.
        show_progress: Whether to show a bar.
        **kwargs: Handed to the explanation. Give ``target``: the class is then the same for both.

    Returns:
        For each layer in order its :class:`RankCorrelations`, ``signed`` and ``absolute``, (N,)
        each. Where an explanation is constant the correlation is undefined: 0.

    Raises:
        TypeError, ValueError: See :mod:`captum_robust.metrics`; or a layer does not exist, or
            there is none with parameters.

    Warns:
        UserWarning: An explanation, or its absolute value, is constant.

    Example:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from captum_robust import metrics, zoo
        >>> model, (images, labels) = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(8)
        >>> generator = torch.Generator().manual_seed(0)
        >>> result = metrics.parameter_randomization(
        ...     Saliency(model), images, target=labels, abs=False, generator=generator
        ... )
        >>> {name: round(c.signed.mean().item(), 2) for name, c in result.items()}
        {'dense2': -0.23, 'dense1': -0.02, 'conv2': -0.02, 'conv1': 0.01}
    """
    check_inputs(inputs)
    model = _model_of(explanation_func, model)
    steps = _steps(model, layers)
    is_tuple, tensors = format_inputs(inputs)
    x = tuple(t.detach() for t in tensors)
    generator = fresh_generator(generator, x[0].device)
    explainer = Explainer(explanation_func, kwargs, generator)
    original = _flat(explainer(format_output(is_tuple, x), x))
    found: dict[str, RankCorrelations] = {}
    with parameters_kept(model) as restore:
        for name, modules in tqdm(steps.items(), "layers", disable=not show_progress):
            if not cumulative:
                restore()
            reinitialize(modules, seed_from(generator))
            found[name] = _correlations(original, _flat(explainer(format_output(is_tuple, x), x)))
    _warn_of_constants(found)
    return {name: RankCorrelations(*(r.nan_to_num(0.0) for r in c)) for name, c in found.items()}


def _model_of(explanation_func: Any, model: Any) -> nn.Module:
    if model is None:
        attribution, _ = method_and_arguments(explanation_func)
        forward = getattr(attribution, "forward_func", None)
        owner = getattr(forward, "__self__", None)
        model = forward if isinstance(forward, nn.Module) else owner
        if not isinstance(model, nn.Module):
            raise TypeError(
                "model: explanation_func does not tell which network it explains. Pass the "
                "torch.nn.Module that it calls, model=."
            )
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    return model


def _steps(model: nn.Module, layers: Sequence[str] | None) -> dict[str, list[nn.Module]]:
    """What to randomise at each step, by name, in order."""
    modules = dict(model.named_modules())
    if layers is None:
        steps = {name: [m] for name, m in reversed(modules.items()) if has_parameters(m)}
        if not steps:
            raise ValueError("model has no parameters, so nothing can be randomised.")
        return steps
    if isinstance(layers, str) or not all(isinstance(name, str) for name in layers):
        raise TypeError(f"layers must be a list of names of modules, got {layers!r}.")
    if not layers:
        raise ValueError("layers is empty; name at least one module, or leave it out for all.")
    unknown = [name for name in layers if name not in modules]
    if unknown:
        names = [name for name, m in modules.items() if has_parameters(m)]
        raise ValueError(f"layers: {unknown[0]!r} is not a module of the model. It has {names}.")
    steps = {
        name: [m for m in reversed(list(modules[name].modules())) if has_parameters(m)]
        for name in layers
    }
    empty = [name for name, inside in steps.items() if not inside]
    if empty:
        raise ValueError(f"layers: {empty[0]!r} has no parameters to randomise. Leave it out.")
    return steps


def _flat(explanation: Tensors) -> Tensor:
    return torch.cat([e.flatten(1).to(explanation[0].device) for e in explanation], dim=1)


def _correlations(original: Tensor, randomized: Tensor) -> RankCorrelations:
    return RankCorrelations(
        compare_pairs(rank_correlation, original, randomized),
        compare_pairs(rank_correlation, original.abs(), randomized.abs()),
    )


def _warn_of_constants(found: dict[str, RankCorrelations]) -> None:
    names = [name for name, c in found.items() if bool(torch.stack(c).isnan().any())]
    if names:
        warn_user(
            "an explanation, of the original or of a randomised model, is constant (or its "
            f"absolute value is) at the layers {names}: the correlation is undefined there and set "
            "to 0. The explanation of a saturated network is; explain logits instead of "
            "probabilities."
        )
