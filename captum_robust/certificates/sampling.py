"""One sweep of noisy copies, which counts marks and predictions and can be resumed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from captum.attr import Attribution, InputXGradient, Saliency
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_robust._utils.attributions import map_forward
from captum_robust._utils.captum import format_inputs, run_forward
from captum_robust._utils.checks import check_attribution, check_count, check_inputs
from captum_robust._utils.forward import logits_of, signature_of, unwrapped
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.randomness import fresh_generator, seed_from
from captum_robust._utils.types import Tensors
from captum_robust.attr import (
    GuidedBackprop,
    PatternAttribution,
    RelevancePropagation,
    SparsifiedSmoothing,
)
from captum_robust.certificates.counts import SmoothingCounts
from captum_robust.outputs import Outputs, resolve

# These run the model once, on the very inputs, and leave its output as it is: its predictions come
# free.
_RUN_ONCE = (Saliency, InputXGradient, GuidedBackprop, RelevancePropagation, PatternAttribution)


def collect_counts(
    explanation: Attribution,
    inputs: Tensor | Tensors,
    n_samples: int = 10_000,
    *,
    target: Any = None,
    output: Outputs | None = None,
    seed: int | None = None,
    first_copy: int = 0,
    file: str | Path | None = None,
    save_every: float = 10.0,
    internal_batch_size: int | None = None,
    show_progress: bool = False,
    **kwargs: Any,
) -> SmoothingCounts:
    """Count in how many noisy copies each feature is among the most relevant.

    The wrapped explanation is computed once for each copy and not once more. Where it is a gradient
    of the model (or another explanation that runs the model once), the predictions at the copies
    are counted in the same passes.

    Args:
        explanation: A :class:`~captum_robust.attr.SparsifiedSmoothing`, or an ``Attribution`` to
            wrap in one with its default settings.
        inputs: Floating-point tensor or tuple of tensors, examples along dimension 0.
        n_samples: Number of noisy copies of each example.
        target: The class to explain, as in Captum, at every copy; None: the one predicted for the
            clean example, where the model gives several outputs.
        output: What the model's outputs mean (:mod:`captum_robust.outputs`).
        seed: Of the noise, a whole number; None: that of ``file``, else a fresh one.
        first_copy: Number of the first copy: processes that share a seed count disjoint ranges.
            Cut at multiples of the copies in a batch, their sum equals one run bit by bit.
        file: Where to save the counts; a run that finds its own file goes on from there.
        save_every: Seconds between two savings.
        internal_batch_size: Largest number of noisy inputs explained at once.
        show_progress: Whether to show a bar on standard error.
        **kwargs: Handed to the explanation, as for ``SparsifiedSmoothing.attribute``.

    Returns:
        The counts. Add up those of other copies with ``+``.

    Raises:
        TypeError: ``explanation`` is not an ``Attribution``.
        ValueError: A count below one, bad inputs, or a ``file`` of something else.

    Example:
        >>> from functools import partial
        >>> from captum.attr import Saliency
        >>> from captum_robust import zoo
        >>> from captum_robust.certificates import collect_counts
        >>> images, _ = zoo.fashion_mnist_sample(2)
        >>> collect = partial(collect_counts, Saliency(zoo.fashion_mnist_cnn()), images)
        >>> found = collect(n_samples=20, seed=0) + collect(n_samples=20, seed=0, first_copy=20)
        >>> found.n_samples, found.shares().shape
        (40, torch.Size([2, 28, 28]))
    """
    check_attribution(explanation, "explanation")
    check_count(n_samples=n_samples)
    check_inputs(inputs)
    smoothing = (
        explanation
        if isinstance(explanation, SparsifiedSmoothing)
        else SparsifiedSmoothing(explanation)
    )
    target, clean, output = _explained(smoothing, inputs, target, output, kwargs)
    kwargs = {"target": target, **kwargs}
    fingerprint = _fingerprint(smoothing, inputs, output, kwargs)
    counts = None
    if file is not None and Path(file).exists():
        counts = _own_file(Path(file), fingerprint, seed, first_copy, n_samples)
        ((seed, _, start),) = counts.ranges
    else:
        seed = seed_from(fresh_generator(None)) if seed is None else seed
        start = first_copy
    votes = _Votes(clean, output)
    if type(smoothing.attribution_method) in _RUN_ONCE and clean is not None:
        smoothing = map_forward(smoothing, votes.listening_to)
    saved = time.monotonic()
    stop = first_copy + n_samples
    with tqdm(total=n_samples, initial=start - first_copy, disable=not show_progress) as bar:
        bar.set_description("noisy copies")
        for part in smoothing.count_marks(
            inputs, range(start, stop), seed, internal_batch_size, **kwargs
        ):
            new = SmoothingCounts(
                marks=torch.cat([m.flatten(1) for m in part.marks], dim=1).cpu(),
                ranges=((seed, start, start + part.n_copies),),
                shapes=tuple(tuple(m.shape[1:]) for m in part.marks),
                n_kept=int(sum(m[0].sum() for m in part.marks)) // part.n_copies,
                stdev=smoothing.stdev,
                fingerprint=fingerprint,
                agreements=votes.take(part.n_copies),
                is_tuple=isinstance(inputs, tuple),
            )
            counts, start = (new if counts is None else counts + new), start + part.n_copies
            bar.update(part.n_copies)
            if file is not None and (start == stop or time.monotonic() - saved >= save_every):
                counts.save(file)
                saved = time.monotonic()
    assert counts is not None
    return counts


class _Votes:
    """Hears the model's outputs at noisy copies: how many predict what the clean example does."""

    def __init__(self, clean: Tensor | None, output: Outputs | None) -> None:
        self._clean, self._output = clean, output
        self._heard: list[Tensor] = []
        self._listening = False

    def listening_to(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """``forward``, whose outputs are heard."""
        self._listening = True

        def heard(*args: Any) -> Tensor:
            logits = logits_of(forward(*args))
            self._heard.append(logits.detach())
            return logits

        heard.__signature__ = signature_of(forward)  # type: ignore[attr-defined]
        return heard

    def take(self, n_copies: int) -> Tensor | None:
        """Agreements among the copies just explained, (N,) int64; None where nothing is heard."""
        if not self._listening or self._clean is None or self._output is None:
            return None
        (logits,) = self._heard
        self._heard.clear()
        clean = self._clean.repeat_interleave(n_copies, 0)
        same = self._output.same(clean, logits).unflatten(0, (-1, n_copies))
        return same.sum(1).cpu()


def _explained(
    smoothing: SparsifiedSmoothing,
    inputs: Tensor | Tensors,
    target: Any,
    output: Outputs | None,
    kwargs: dict[str, Any],
) -> tuple[Any, Tensor | None, Outputs | None]:
    """The target, the clean output and what it means; the latter None where it has no meaning."""
    _, tensors = format_inputs(inputs)
    forward = smoothing.forward_func
    with torch.no_grad(), preserve_buffers(forward):
        arguments = kwargs.get("additional_forward_args")
        clean = run_forward(unwrapped(forward), tensors, None, arguments)
    n_examples = len(tensors[0])
    several = clean.dim() == 2 and clean.shape[1] > 1
    if output is None and not several:
        return target, None, None
    output = resolve(output, clean, n_examples)
    return (output.target(clean) if target is None and several else target), clean, output


def _own_file(
    path: Path, fingerprint: str, seed: int | None, first_copy: int, n_samples: int
) -> SmoothingCounts:
    counts = SmoothingCounts.load(path)
    if counts.fingerprint != fingerprint:
        raise ValueError(
            f"file: {path} holds counts of another model, explanation, setting or other examples. "
            "Give another path."
        )
    (whose, start, stop), *others = counts.ranges
    fits = not others and start == first_copy and stop <= first_copy + n_samples
    if not fits or (seed is not None and seed != whose):
        raise ValueError(
            f"file: {path} holds other copies, {counts.ranges} (seed, first, end). Give another "
            "path, or load and add them: SmoothingCounts.load(path) + counts."
        )
    return counts


_PLAIN = (int, float, str, Tensor)


def _fingerprint(
    smoothing: SparsifiedSmoothing,
    inputs: Tensor | Tensors,
    output: Outputs | None,
    kwargs: dict[str, Any],
) -> str:
    """A hash of what was explained, and how."""
    methods: list[Any] = []
    held: Any = smoothing
    while isinstance(held, Attribution):
        methods.append(type(held).__name__)
        methods += [pair for pair in sorted(vars(held).items()) if isinstance(pair[1], _PLAIN)]
        held = getattr(held, "attribution_method", None)
    meaning = (type(output).__name__, *sorted(getattr(output, "__dict__", {}).items()))
    settings = (methods, meaning, smoothing.kept, smoothing.stdev, smoothing.channel_dim)
    digest = hashlib.sha256()
    for value in (settings, inputs, *sorted(kwargs.items())):
        _add(digest, value)
    if isinstance(smoothing.forward_func, nn.Module):
        for name, module in smoothing.forward_func.named_modules():
            _add(digest, (name, type(module).__qualname__, module.extra_repr()))
        for name, tensor in sorted(smoothing.forward_func.state_dict().items()):
            _add(digest, (name, tensor))
    return digest.hexdigest()


def _add(digest: hashlib._Hash, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
        # As bytes: numpy has no bfloat16.
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    elif isinstance(value, (tuple, list)):
        for item in value:
            _add(digest, item)
    elif isinstance(value, (int, float, str, bool, type(None))):
        digest.update(repr(value).encode())
    else:
        digest.update(getattr(value, "__qualname__", type(value).__qualname__).encode())
    digest.update(b";")
