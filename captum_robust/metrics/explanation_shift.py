"""Which explanations a new version of a model has moved, and on which classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_robust._utils.attributions import same_draws
from captum_robust._utils.checks import check_count
from captum_robust._utils.forward import logits_of
from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust._utils.model_state import preserve_buffers
from captum_robust.metrics._explainer import method_and_arguments
from captum_robust.metrics.correlation import spearman_correlation
from captum_robust.metrics.explained_relevance import explained_relevance
from captum_robust.metrics.top_k import top_k_intersection
from captum_robust.outputs import Outputs, resolve

# Of an explanation's random draws, which are to be the same for both models.
_SEED = 0


class ExplanationShift(NamedTuple):
    """How far one explanation moved between two models, by class; see :func:`explanation_shift`.

    Attributes:
        classes: (C,) the classes that were explained, ascending; -1 alone where there are none.
        n_examples: (C,) how many examples each class has.
        rank_correlation: (C,) mean Spearman correlation of the maps before and after.
        top_k_kept: (C,) mean share of the k most relevant features that still are.
    """

    classes: Tensor
    n_examples: Tensor
    rank_correlation: Tensor
    top_k_kept: Tensor

    def mean(self) -> tuple[float, float]:
        """``rank_correlation`` and ``top_k_kept``, means over all examples."""
        share = self.n_examples.double() / self.n_examples.sum()
        return (
            (share * self.rank_correlation.double()).sum().item(),
            (share * self.top_k_kept.double()).sum().item(),
        )


@outside_inference_mode
def explanation_shift(
    before: nn.Module,
    after: nn.Module,
    explanations: Mapping[str, Callable[[Any], Any]],
    loader: Iterable[Any],
    *,
    k: int | None = None,
    channel_dim: int | None = None,
    output: Outputs | None = None,
    show_progress: bool = False,
) -> dict[str, ExplanationShift]:
    r"""Compare the explanations of a model before an update with those after, class by class.

    .. math:: \operatorname{mean}_{x:\, c(x) = c}\; s\left(r(\phi(f^0_c, x)),
              r(\phi(f^1_c, x))\right)

    with relevance maps r (:func:`relevance_map`), and s Spearman's rank correlation or the share of
    the k most relevant features in common. Both models are explained for the same class c(x): the
    label, or what the model before predicts (the strongest of several labels). An update that
    leaves the predictions and moves one explanation alone, or those of one class, is worth a
    question (Heo et al. 2019). How far an honest update moves them is a matter of the model:
    compare with one that you have trained yourself. An explanation that draws noise draws the same
    for both models.

    Args:
        before: The model that one knew.
        after: The one that one was given.
        explanations: By name, what makes an explanation of a model: ``Saliency``, ``lambda model:
            LayerGradCam(model, model.conv)``, or a partial of its ``attribute`` with options.
        loader: Gives batches (N, ...), or tuples that begin with one, followed by labels (N,).
        k: Of the most relevant features; None: a tenth of a map, rounded, at least one.
        channel_dim: As in :func:`relevance_map`.
        output: What the models' outputs mean; None: logits of two or more classes.
        show_progress: Whether to show a bar.

    Returns:
        For each explanation, in the order given, its :class:`ExplanationShift`.

    Raises:
        TypeError: ``explanations`` is not a mapping from names to functions, or one of them does
            not make an explanation; a model is not one; ``loader`` is a tensor.
        ValueError: ``explanations`` or ``loader`` is empty, ``k`` is larger than a map, or see
            :func:`explained_relevance`.

    Example:
        >>> import torch
        >>> from captum.attr import InputXGradient, Saliency
        >>> from captum_robust import metrics, zoo
        >>> images, _ = zoo.fashion_mnist_sample(64)
        >>> before, after = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_cnn_atex()
        >>> explanations = {"gradient": Saliency, "input x gradient": InputXGradient}
        >>> moved = metrics.explanation_shift(before, after, explanations, images.split(32))
        >>> {name: round(shift.mean()[0], 2) for name, shift in moved.items()}
        {'gradient': 0.36, 'input x gradient': 0.91}
    """
    _check_explanations(explanations)
    for role, model in (("before", before), ("after", after)):
        if not callable(model):
            raise TypeError(f"{role} must be a model, got {type(model).__name__}.")
    if isinstance(loader, Tensor):
        raise TypeError("loader is a tensor. Pass a DataLoader, or a list of batches: [inputs].")
    if k is not None:
        check_count(k=k)
    classes: list[Tensor] = []
    values: dict[str, list[Tensor]] = {name: [] for name in explanations}
    for batch in tqdm(loader, disable=not show_progress, desc="batches"):
        inputs, labels = _parts(batch)
        explained, group = _explained(before, inputs, labels, output)
        classes.append(group)
        for name, explanation in explanations.items():
            maps = []
            for model in (before, after):
                method = explanation(model)
                attribution, bound = method_and_arguments(method)
                with same_draws(attribution, _SEED, inputs.device, bound) as options:
                    maps.append(
                        explained_relevance(
                            method, inputs, explained, channel_dim=channel_dim, output=output,
                            **options,
                        )
                    )  # fmt: skip
            values[name].append(_similarities(maps[0], maps[1].to(maps[0].device), k))
    if not classes:
        raise ValueError("loader is empty; give at least one batch.")
    groups = torch.cat(classes)
    return {name: _by_class(groups, torch.cat(v)) for name, v in values.items()}


def _check_explanations(explanations: Any) -> None:
    if not isinstance(explanations, Mapping) or not all(map(callable, explanations.values())):
        raise TypeError(
            "explanations must be a mapping from names to functions of a model, such as "
            '{"gradient": Saliency, "Grad-CAM": lambda model: LayerGradCam(model, model.conv)}.'
        )
    if not explanations:
        raise ValueError("explanations is empty; give at least one.")


def _parts(batch: Any) -> tuple[Tensor, Tensor | None]:
    """The inputs, and the labels where there are any."""
    if isinstance(batch, Tensor):
        return batch, None
    if not isinstance(batch, (tuple, list)) or not batch or not isinstance(batch[0], Tensor):
        raise TypeError(
            "loader must give batches, tensors or tuples (inputs, labels), got "
            f"{type(batch).__name__}."
        )
    return batch[0], batch[1] if len(batch) > 1 else None


def _explained(
    before: nn.Module, inputs: Tensor, labels: Tensor | None, output: Outputs | None
) -> tuple[Tensor | None, Tensor]:
    """What is explained, None where there is one output; and the class of each example."""
    with torch.no_grad(), preserve_buffers(before):
        logits = logits_of(before(inputs.detach().clone()))
    meaning = resolve(output, logits, len(inputs))
    # The labels of outputs without classes are values, or several, and name nothing to explain.
    wanted = labels if meaning.has_classes else None
    watched = meaning.watched(logits, None if wanted is None else wanted.to(logits.device))
    if watched is None:  # one number
        return None, torch.full((len(inputs),), -1)
    return watched, watched.cpu()


def _similarities(a: Tensor, b: Tensor, k: int | None) -> Tensor:
    """Rank correlation, and the share of the top k, (N, 2)."""
    size = a[0].numel()
    chosen = max(1, round(size / 10)) if k is None else k
    pair = (spearman_correlation(a, b), top_k_intersection(a, b, chosen))
    return torch.stack(pair, dim=1).cpu()


def _by_class(groups: Tensor, values: Tensor) -> ExplanationShift:
    classes, place, counts = groups.unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(classes), 2, dtype=torch.float64)
    means = sums.index_add_(0, place, values.double()) / counts.unsqueeze(1)
    return ExplanationShift(classes, counts, means[:, 0].to(values), means[:, 1].to(values))
