"""One call that answers whether the explanations of a model can be trusted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from captum_robust._utils.eager import require_eager
from captum_robust._utils.forward import logits_of
from captum_robust._utils.model_state import digest_of, on_device, preserve_model
from captum_robust.audit import engine
from captum_robust.audit.circumstances import circumstances
from captum_robust.audit.collect import collect
from captum_robust.audit.explanations import admitted, named_explanations
from captum_robust.audit.measurements import Measurements
from captum_robust.audit.model_check import check_model
from captum_robust.audit.progress import Progress, count_examples
from captum_robust.audit.report import AuditReport
from captum_robust.audit.settings import Budget, Settings, budget_of
from captum_robust.audit.steps import count_steps
from captum_robust.audit.store import BatchStore
from captum_robust.audit.verdict import Rules
from captum_robust.outputs import Outputs, resolve


def audit(
    model: nn.Module,
    explanations: Mapping[str, Any] | Sequence[str] | None,
    loader: Iterable[Any],
    *,
    eps: float | Tensor,
    k: int | None = None,
    output: Outputs | None = None,
    input_range: tuple[Any, Any] | None = (0.0, 1.0),
    channel_dim: int = 1,
    labels: bool = False,
    budget: str | int | Budget = "standard",
    certify: bool = True,
    rules: Rules | None = None,
    feature_names: Sequence[str] | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    show_progress: bool = True,
) -> AuditReport:
    """Ask of each explanation of a model whether it can be trusted.

    Each explanation is attacked by :class:`~captum_robust.attacks.AutoExplanationAttack`, or where
    it has no graph by :class:`~captum_robust.attacks.BlackBoxExplanationAttack`, at three sizes of
    the change, up to ``eps`` (of the budget "quick": at ``eps`` alone), beside random noise of the
    same size. It is certified, and checked
    for faithfulness (infidelity, pixel flipping, each beside a random order), for sensitivity, and
    for whether it depends on what the model has learned. Of a table it is checked whether the model
    behaves off the data as on them (:func:`~captum_robust.metrics.query_consistency`). The model is
    asked in evaluation mode and left as it is.

    Args:
        model: The model; its inputs are single tensors.
        explanations: A Captum ``Attribution``, or a pair of one and a dictionary of its arguments,
            by name. None: "gradient", "integrated gradients", "LRP", "guided backpropagation",
            "SmoothGrad" and "beta-smoothed gradient", those that the model admits; or a list of
            some of these names.
        loader: Yields inputs or (inputs, labels), the same every time it is read: no shuffling.
        eps: Largest change of an input, in its units; a tensor for one number per feature.
        k: Number of most relevant features that are compared; None: a tenth of them, at most 50.
        output: What the model's outputs mean, see :mod:`captum_robust.outputs`; None: classes.
        input_range: Least and greatest value of an input; None: unbounded.
        channel_dim: Dimension that relevance maps sum over.
        labels: Whether the class of the loader's labels is explained, not the predicted one.
        budget: "quick", "standard", "thorough", a number of gradient evaluations, or a
            :class:`Budget`.
        certify: Whether to compute certificates.
        rules: What the verdicts follow from; None: :class:`Rules` with its defaults.
        feature_names: Of the columns of a table, for the report.
        seed: Of all randomness.
        folder: Where finished batches are kept, from which a killed audit goes on; None: nowhere.
        show_progress: Whether to show a bar.

    Returns:
        The report.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range, the loader shuffles or yields nothing, no
            explanation can be computed, or the folder holds another audit.

    Example:
        >>> from captum.attr import Saliency
        >>> from captum_robust import audit, zoo
        >>> model, (images, labels) = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(4)
        >>> report = audit.audit(
        ...     model, {"gradient": Saliency(model)}, [(images, labels)],
        ...     eps=0.05, budget=20, certify=False, show_progress=False,
        ... )
        >>> report.explanations["gradient"].verdict.value
        'can be manipulated'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    require_eager(model, "model")
    _check_loader(loader)
    named = named_explanations(explanations, model, input_range)
    started = time.monotonic()
    processes = engine.Processes()
    if processes.count > 1 and folder is None:
        raise ValueError(
            f"folder: {processes.count} processes put their batches together in a folder that all "
            "of them see. Name one: folder=..., or --resume FOLDER."
        )
    batch = next(iter(loader), None)
    if batch is None:
        raise ValueError("loader yields nothing. Check its data set and drop_last.")
    inputs, _ = engine.unpack(batch)
    with on_device(model, processes.device):
        device = next((p.device for p in model.parameters()), inputs.device)
        found, refused, n = _first_look(model, named, inputs.to(device), output, channel_dim)
        if k is not None and k > n:
            raise ValueError(f"k must be at most the number of features, {n}, got {k}.")
        settings = Settings(
            eps=eps, k=min(50, max(1, n // 10)) if k is None else k, budget=budget_of(budget),
            output=output, input_range=input_range, channel_dim=channel_dim, labels=labels,
            certify=certify, seed=int(seed),
            feature_names=None if feature_names is None else tuple(map(str, feature_names)),
            n_inputs=inputs[0].numel(),
        )  # fmt: skip
        fingerprint = {**settings.as_json(), "explanations": list(found), "model": digest_of(model)}
        store = BatchStore(folder, fingerprint)
        progress = Progress(
            count_examples(loader), len(found) * count_steps(settings),
            is_shown=show_progress and processes.rank == 0,
        )  # fmt: skip
        try:
            measure = Measurements(model, found, settings, progress)
            n_before = store.count()
            n_batches = engine.run(measure, loader, store, processes, progress)
            checked = check_model(model, loader, settings)
            seconds = time.monotonic() - started
            about = circumstances(device, seconds, processes.count, n_before)
            return collect(store, n_batches, settings, rules or Rules(), refused, about, checked)
        finally:
            progress.close()
            store.close()


def _first_look(
    model: nn.Module, named: Mapping[str, Any], inputs: Tensor, output: Outputs | None, channel: int
) -> tuple[dict[str, Any], dict[str, str], int]:
    """Which explanations the model admits, why not the others, and how many features a map has."""
    if not inputs.is_floating_point():
        raise ValueError(
            f"loader must yield floating-point inputs, got {inputs.dtype}. Integers, such as "
            "tokens, can be audited as embeddings."
        )
    with preserve_model(model), torch.no_grad():
        model.eval()
        first = logits_of(model(inputs[:1]))
        target = resolve(output, first, 1).target(first)
        found, refused = admitted(named, inputs[:1], target)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ValueError(f"explanations: the model admits none of them. {reasons}")
    n_features = inputs[0].numel()
    return found, refused, n_features // (inputs.shape[channel] if inputs.dim() > 2 else 1)


def _check_loader(loader: Any) -> None:
    if isinstance(loader, Tensor):
        raise TypeError("loader is a tensor. Pass a DataLoader, or a list of batches: [inputs].")
    if not isinstance(loader, Iterable) or iter(loader) is loader:
        raise TypeError(
            f"loader must be read more than once, as a DataLoader or a list, got "
            f"{type(loader).__name__}."
        )
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler):
        raise ValueError(
            "loader shuffles, so its examples have no numbers. Make it with shuffle=False."
        )
