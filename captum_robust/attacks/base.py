"""The one loop of every attack on explanations, behind the interface of TorchAttacks."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from captum.attr import Attribution, Saliency
from torch import Tensor, nn
from torchattacks.attack import Attack
from tqdm import tqdm

from captum_robust._utils.checks import (
    check_count,
    check_floating,
    check_images,
    check_labels,
    check_positive,
)
from captum_robust._utils.eager import require_eager
from captum_robust._utils.forward import logits_of
from captum_robust._utils.model_state import preserve_model
from captum_robust._utils.randomness import fresh_generator
from captum_robust.attacks._best import Best
from captum_robust.attacks._explained import Explained, ModelView, check_relevance
from captum_robust.attacks.balls import L2, Ball, LInf
from captum_robust.attacks.schedules import GeometricGrowth, Schedule, value_at
from captum_robust.attr import differentiable

Objective = Callable[[Explained], Tensor]
"""What to minimise, one value per example, as a function of explained images."""

Gradient = Callable[[Tensor], Tensor]
"""The gradient of the surrogate's objective at given images."""

Stepper = Callable[[Tensor, Gradient, float], Tensor]
"""From the current images to the next, at a progress in [0, 1]; asks for gradients as it likes."""

# As in the code of Dombrowski et al.; for all attacks, since no fixed sharpness is as strong.
_GROWTH = GeometricGrowth(10.0, 100.0)


class ExplanationAttack(Attack, ABC):
    r"""Base of all attacks: change the explanation of an image, keep its predicted label.

    From the clean image x (and, with ``restarts``, random points of the ball) it iterates

    .. math:: x' \leftarrow \Pi(x' - \alpha\, d(\nabla_{x'} L(r_\beta(x'))))

    with the relevance map :math:`r_\beta` of the *surrogate*, the model under softplus of
    sharpness ``beta``, and the projection on the ball and on [0, 1]. Every iterate is then scored
    on the *true* model. Returned is, for each image on its own, the iterate of lowest objective
    among those that keep the label (and ``eps_output``); where none is below the clean image's
    objective, the clean image. A subclass says what to minimise: :meth:`objective`.

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits, or an object with ``.logits``.
        explanation: The Captum ``Attribution`` to attack, one that
            :func:`~captum_robust.attr.differentiable` accepts; None: the gradient. One that
            explains ``model`` sees it through ``set_normalization_used`` like the attack, as a
            function of the images in [0, 1].
        eps: Radius of the ball, in units of the image.
        alpha: Step size, in units of the image, or a function of the progress in [0, 1].
        steps: Number of steps per restart.
        beta: Sharpness of the surrogate, or a function of the progress in [0, 1].
        eps_output: Largest change of the explained class's logit; None: no bound.
        restarts: Number of starts; the first is the clean image.
        ball: ``LInf()`` or ``L2()``.
        explanation_kwargs: Further arguments of the explanation, such as ``n_steps``.
        generator: Source of randomness; None draws a fresh one and leaves the global state alone.
        show_progress: Whether to show a bar.

    Raises:
        TypeError: ``model`` is no module, or the explanation is not differentiable.
        ValueError: A parameter is out of range; when called, images outside [0, 1], NaN, empty.

    References:
        Ghorbani et al. 2019, Alg. 1; Dombrowski et al. 2019, Section 2; Tang et al. 2021, Eq. 1.
    """

    def __init__(
        self,
        model: nn.Module,
        explanation: Attribution | None = None,
        eps: float = 8 / 255,
        alpha: float | Schedule = 1 / 255,
        steps: int = 100,
        *,
        beta: float | Schedule = _GROWTH,
        eps_output: float | None = None,
        restarts: int = 1,
        ball: Ball | None = None,
        explanation_kwargs: dict[str, Any] | None = None,
        generator: torch.Generator | None = None,
        show_progress: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
        require_eager(model, "model")
        check_positive(eps=eps)
        check_count(steps=steps, restarts=restarts)
        if eps_output is not None:
            check_positive(eps_output=eps_output)
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not callable(value):
                check_positive(**{name: value})
        _check_kinds(explanation, explanation_kwargs, ball, generator)
        if eps > 1 and not isinstance(ball, L2):
            raise ValueError(
                f"eps must be at most 1, since images are in [0, 1], got {eps}: / 255?"
            )
        super().__init__(type(self).__name__, model)
        self.eps, self.alpha, self.steps = eps, alpha, steps
        self.beta, self.eps_output, self.restarts = beta, eps_output, restarts
        self.ball = ball if ball is not None else LInf()
        self.show_progress = show_progress
        # Private, since TorchAttacks compares and prints every public attribute.
        self._explanation = explanation if explanation is not None else Saliency(model)
        self._explanation_kwargs = dict(explanation_kwargs or {})
        self._generator = generator
        differentiable(self._explanation)

    @abstractmethod
    def objective(self, clean: Explained) -> Objective:
        """What to minimise, one value per example, given the explained clean images."""

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The attack itself, on images in [0, 1] and a model whose state is preserved."""
        return self._search(images, labels, self.objective)

    def __call__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *args: Any,
        eps: float | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Manipulate ``images``.

        Args:
            images: (N, C, H, W) in [0, 1]; normalised ones after ``set_normalization_used``.
            labels: (N,) the class whose explanation is attacked; None: the predicted one.
            *args: What the particular attack asks for besides.
            eps: Another radius for this call; ``alpha`` scales along.
            **kwargs: What the particular attack asks for besides.

        Returns:
            Manipulated images of the same shape and dtype, where the model is.
        """
        attack = self if eps is None else self._with_eps(eps)
        return attack._run(images, labels, *args, **kwargs)

    def _run(self, images: Tensor, labels: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        check_floating(images)
        images = images.to(next((p.device for p in self.model.parameters()), images.device))
        with torch.inference_mode(False), torch.enable_grad(), preserve_model(self.model):
            self._change_model_mode(self.model.training)
            with self._unnormalised(images) as pixels:
                check_images(pixels)
                check_labels(labels, pixels)
                manipulated = self.forward(pixels, labels, *args, **kwargs)
        if self._normalization_applied:
            manipulated = self.normalize(manipulated)
        return manipulated

    def perturb_func(
        self, labels: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Callable[[Tensor, float], Tensor]:
        """This attack as ``perturb_func`` of :func:`captum.metrics.sensitivity_max`.

        The metric's ``perturb_radius`` becomes ``eps``. It repeats the images; each set of copies
        is attacked on its own, so that all arguments stay those of the images. One set will do
        (``n_perturb_samples=1``) where nothing is random.

        Args:
            labels: (N,) the class whose explanation is attacked; None: the predicted one.
            *args: What the particular attack asks for besides.
            **kwargs: What the particular attack asks for besides.

        Returns:
            A function of images and a radius.
        """

        def perturb(images: Any, perturb_radius: float) -> Tensor:
            (images,) = images if isinstance(images, tuple) else (images,)
            count = len(images) if labels is None else len(labels)
            if count == 0 or len(images) % count:
                raise ValueError(
                    f"labels: {count} of them for {len(images)} images. Give one per image, as "
                    "many as the images that are measured."
                )
            copies = images.unflatten(0, (count, -1)).unbind(1)
            attacked = [self(c, labels, *args, eps=perturb_radius, **kwargs) for c in copies]
            return torch.stack(attacked, dim=1).flatten(0, 1)

        return perturb

    def get_logits(self, inputs: Tensor, labels: Tensor | None = None, *args: Any) -> Tensor:
        """The model's logits for images in [0, 1]."""
        return logits_of(super().get_logits(inputs, labels, *args))

    @property
    def explanation(self) -> Attribution:
        """The attacked explanation."""
        return self._explanation

    # The loop.

    def _search(
        self, images: Tensor, labels: Tensor | None, objective: Callable[[Explained], Objective]
    ) -> Tensor:
        generator = fresh_generator(self._generator, images.device)
        model_view = ModelView(
            self.model,
            self.get_logits,
            self._explanation,
            self._explanation_kwargs,
            images,
            labels,
            normalised=self._normalization_applied is not None,
            generator=generator,
        )
        clean = model_view.explain(images)
        score = objective(clean)
        check_relevance(clean.relevance)
        best = Best(images, clean, score(clean), model_view.labels, self.eps_output)
        with tqdm(
            total=self.restarts * self.steps, desc=self.attack, disable=not self.show_progress
        ) as bar:
            for restart in range(self.restarts):
                x = images if restart == 0 else self.ball.draw(images, self.eps, generator)
                step = self._stepper(images, generator)
                for i in range(self.steps):
                    progress = i / max(1, self.steps - 1)
                    beta = value_at(self.beta, progress)
                    x = step(x, partial(_gradient, model_view, score, best, beta), progress)
                    candidate = model_view.explain(x)
                    best.update(x, score(candidate), candidate)
                    bar.update()
        best.warn()
        return best.images

    def _stepper(self, images: Tensor, generator: torch.Generator) -> Stepper:
        """A fresh rule for one restart: here, projected steps of size alpha."""

        def step(x: Tensor, gradient: Gradient, progress: float) -> Tensor:
            unit = self.ball.direction(gradient(x))
            return self.ball.project(x - value_at(self.alpha, progress) * unit, images, self.eps)

        return step

    # TorchAttacks, mended.

    def save(
        self,
        data_loader: Any,
        save_path: Any = None,
        verbose: bool = True,
        return_verbose: bool = False,
        save_predictions: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Attack all images of a loader and save them, as TorchAttacks does; see its manual."""
        # The predictions are computed for the statistics only, so these are always asked for.
        wanted = return_verbose or save_predictions
        with preserve_model(self.model):
            statistics = super().save(
                data_loader, save_path, verbose, wanted, save_predictions, *args, **kwargs
            )
        return statistics if return_verbose else None

    def normalize(self, inputs: Tensor) -> Tensor:
        """Normalised images, in the dtype of ``inputs`` whatever that of the mean is."""
        return super().normalize(inputs).to(inputs.dtype)

    def inverse_normalize(self, inputs: Tensor) -> Tensor:
        """The inverse of :meth:`normalize`."""
        return super().inverse_normalize(inputs).to(inputs.dtype)

    def get_output_with_eval_nograd(self, inputs: Tensor) -> Tensor:
        """The logits of the model in evaluation mode."""
        with preserve_model(self.model):
            return super().get_output_with_eval_nograd(inputs)

    def _with_eps(self, eps: float) -> ExplanationAttack:
        check_positive(eps=eps)
        attack = copy.copy(self)
        ratio, alpha = eps / self.eps, self.alpha
        attack.alpha = (lambda t: ratio * alpha(t)) if callable(alpha) else ratio * alpha
        attack.eps = eps
        return attack

    @contextmanager
    def _unnormalised(self, inputs: Tensor) -> Iterator[Tensor]:
        """Images in [0, 1], and get_logits that normalises them, for the length of a block."""
        if not self._normalization_applied:
            yield inputs.detach().clone()
            return
        if inputs.dim() != 4:  # else the mean and std of the channels would be spread over more
            raise ValueError(
                "images must have shape (N, C, H, W) where set_normalization_used was called, got "
                f"{tuple(inputs.shape)}."
            )
        # Undoing a normalisation is rounded, which may put a black pixel just below 0.
        pixels = self.inverse_normalize(inputs.detach())
        near = pixels.clamp(0.0, 1.0)
        slack = max(1e-4, 2 * torch.finfo(inputs.dtype).eps)
        pixels = torch.where((pixels - near).abs() < slack, near, pixels)
        self._set_normalization_applied(False)
        try:
            yield pixels
        finally:
            self._set_normalization_applied(True)

    def __setattr__(self, name: str, value: Any) -> None:
        # TorchAttacks searches every value for nested attacks by ==, remembers each for ever, and
        # fails on tensors. There are no nested attacks here.
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        name = type(self._explanation).__name__
        return f"{super().__repr__()[:-1]}, explanation={name})"


def _gradient(
    model_view: ModelView, score: Objective, best: Best, beta: float, x: Tensor
) -> Tensor:
    """Gradient of the surrogate's objective with respect to the images."""
    x = x.detach().requires_grad_()
    harm = score(model_view.explain_surrogate(x, beta)).sum()
    (gradient,) = torch.autograd.grad(harm, x)
    best.note_gradient(gradient)
    return gradient


def _check_kinds(explanation: Any, explanation_kwargs: Any, ball: Any, generator: Any) -> None:
    if explanation is not None and not isinstance(explanation, Attribution):
        raise TypeError(
            f"explanation must be a captum Attribution, got {type(explanation).__name__}. Wrap the "
            "model: Saliency(model). It comes before eps, alpha and steps, which can be named."
        )
    reserved = {"target", "return_convergence_delta", "additional_forward_args"}
    reserved &= set(explanation_kwargs or {})
    if reserved:
        raise ValueError(
            f"explanation_kwargs must not hold {min(reserved)!r}. The class to explain is given by "
            "labels, an attack needs attributions alone, and its model gets images alone."
        )
    if ball is not None and (isinstance(ball, type) or not isinstance(ball, Ball)):
        raise TypeError(f"ball must be LInf(), L2() or alike, got {ball!r}.")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}.")
