"""The base of all attacks on explanations: a subclass says what to minimise."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from captum.attr import Attribution, Saliency
from torch import Tensor, nn

from captum_robust._utils.checks import check_labels
from captum_robust._utils.eager import require_eager
from captum_robust._utils.randomness import fresh_generator
from captum_robust.attacks import _inputs
from captum_robust.attacks._callable_model import as_module
from captum_robust.attacks._explained import Explained, ModelView, Subject
from captum_robust.attacks._limits import Limits, box_for
from captum_robust.attacks._search import Gradient, Objective, Plan, Stepper, search
from captum_robust.attacks.balls import Box, LInf, Radius
from captum_robust.attacks.report import AttackReport
from captum_robust.attacks.schedules import GeometricGrowth, Schedule, value_at
from captum_robust.attacks.settings import RareSettings, check_arguments, check_quantities, complete
from captum_robust.attacks.torch_attack import TorchAttack
from captum_robust.attr import differentiable
from captum_robust.outputs import Outputs

if TYPE_CHECKING:
    from typing_extensions import Unpack

# As in the code of Dombrowski et al.; for all attacks, since no fixed sharpness is as strong.
_GROWTH = GeometricGrowth(10.0, 100.0)


class ExplanationAttack(TorchAttack, ABC):
    r"""Base of all attacks: change the explanation of an example, keep its prediction.

    From the clean example x (and, with ``restarts``, random points of the ball) it iterates

    .. math:: x' \leftarrow \Pi(x' - \alpha\, d(\nabla_{x'} L(r_\beta(x'))))

    with the relevance map :math:`r_\beta` of the *surrogate*, the model under softplus of
    sharpness ``beta``, and the projection on the ball and on ``input_range``. Every iterate is
    scored on the *true* model. Returned is, for each example on its own, the iterate of lowest
    objective among those that keep the prediction (and ``eps_output``); where none is below the
    clean example's, the clean example. A subclass says what to minimise: :meth:`objective`.

    Args:
        model: Maps images (N, C, H, W), tables (N, F), series, volumes or embeddings to outputs.
        explanation: The Captum ``Attribution`` to attack, one that
            :func:`~captum_robust.attr.differentiable` accepts; None: the gradient. One that
            explains ``model`` sees it through ``set_normalization_used`` like the attack.
        eps: Radius of the ball, in units of the inputs; a tensor gives one per feature, 0 where a
            feature must not move.
        alpha: Step size, in the same units, or a function of the progress in [0, 1].
        steps: Number of steps per restart.
        output: What outputs mean (:mod:`captum_robust.outputs`); None: logits of classes.
        input_range: Smallest and largest value, numbers or a tensor per feature; None: no bound.
        beta: Sharpness of the surrogate, or a function of the progress in [0, 1].
        generator: Source of randomness; None draws a fresh one and leaves the global state alone.
        **settings: ``channel_dim``: dimension of the channels, asked for where inputs have three.
            ``eps_output``: largest change of the explained output. ``restarts``: number of starts;
            the first is the clean example. ``ball``: ``LInf()`` or ``L2()``. ``levels``: 256
            scores every candidate as 8 bits will store it. ``explanation_kwargs``: further
            arguments of the explanation. ``show_progress``: whether to show a bar.

    Raises:
        TypeError: ``model`` is not callable, or the explanation is not differentiable.
        ValueError: A parameter is out of range; when called, inputs out of range, NaN, empty.

    References:
        Ghorbani et al. 2019, Alg. 1; Dombrowski et al. 2019, Section 2; Tang et al. 2021, Eq. 1.
    """

    def __init__(
        self,
        model: nn.Module,
        explanation: Attribution | None = None,
        eps: Radius = 8 / 255,
        alpha: float | Tensor | Schedule = 1 / 255,
        steps: int = 100,
        *,
        output: Outputs | None = None,
        input_range: Box | None = (0.0, 1.0),
        beta: float | Schedule = _GROWTH,
        generator: torch.Generator | None = None,
        **settings: Unpack[RareSettings],
    ) -> None:
        module = as_module(model)
        require_eager(module, "model")
        check_quantities(eps, alpha, steps, beta)
        rare = complete(settings)
        check_arguments(explanation, output, generator, input_range, eps, rare)
        super().__init__(module, output, rare["levels"])
        self.eps, self.steps, self.beta = eps, steps, beta
        self.alpha: Any = alpha
        self.input_range, self.channel_dim = input_range, rare["channel_dim"]
        self.eps_output, self.restarts = rare["eps_output"], rare["restarts"]
        self.ball = rare["ball"] if rare["ball"] is not None else LInf()
        self.show_progress = rare["show_progress"]
        # Private, since these are not printed.
        self._explanation = explanation if explanation is not None else Saliency(module)
        self._explanation_kwargs = dict(rare["explanation_kwargs"] or {})
        self._generator = generator
        self._arguments: tuple[Any, ...] = ()
        self._report: AttackReport | None = None
        self._check_explanation()

    @abstractmethod
    def objective(self, clean: Explained) -> Objective:
        """What to minimise, one value per example, given the explained clean examples."""

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The attack itself, on inputs in their range and a model whose state is preserved."""
        return self._search(images, labels, self.objective)

    def __call__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *args: Any,
        eps: Radius | None = None,
        additional_forward_args: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Manipulate ``images``.

        Args:
            images: (N, ...) within ``input_range``; normalised ones after
                ``set_normalization_used``.
            labels: (N,) the class whose explanation is attacked; None: the predicted one.
            *args: What the particular attack asks for besides.
            eps: Another radius for this call; ``alpha`` scales with it.
            additional_forward_args: Further arguments of the model, as in Captum: a tuple, or one.
            **kwargs: What the particular attack asks for besides.

        Returns:
            Manipulated examples of the same shape and dtype, where the model is. What happened is
            in :attr:`report`.
        """
        attack = copy.copy(self) if eps is None else self._with_eps(eps)
        given = additional_forward_args
        attack._arguments = given if isinstance(given, tuple) else () if given is None else (given,)
        self._report = None
        with attack._prepared(images, attack._arguments) as pixels:
            attack._check_inputs(pixels, labels)
            manipulated = attack.forward(pixels, labels, *args, **kwargs)
        self._report = attack._report
        return attack.normalize(manipulated) if attack._normalization_applied else manipulated

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

    @property
    def explanation(self) -> Attribution:
        """The attacked explanation."""
        return self._explanation

    @property
    def report(self) -> AttackReport | None:
        """What happened in the last call; None before the first, and after one that failed."""
        return self._report

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, explanation={type(self._explanation).__name__})"

    # What subclasses may change.

    def _check_explanation(self) -> None:
        """Raise TypeError where this attack cannot follow the explanation."""
        differentiable(self._explanation)

    def _stepper(self, images: Tensor, generator: torch.Generator) -> Stepper:
        """A fresh stepper for one restart: here, projected steps of size alpha."""
        limits = self._limits(images)

        def step(x: Tensor, gradient: Gradient, progress: float) -> Tensor:
            alpha = self.alpha
            alpha = alpha.to(x) if isinstance(alpha, Tensor) else value_at(alpha, progress)
            return limits.project(x - alpha * self.ball.direction(gradient(x)), images)

        return step

    def _with_eps(self, eps: Radius) -> ExplanationAttack:
        """A copy with another radius, whose steps scale with it."""
        if isinstance(self.eps, Tensor) and not isinstance(eps, Tensor):
            raise ValueError(
                "eps must be a tensor in this call, since the attack was made with a radius per "
                "feature, and one number would move those that must stay."
            )
        check_quantities(eps, self.alpha, self.steps, self.beta)
        attack = copy.copy(self)
        alpha: Any = self.alpha
        ratio = torch.nan_to_num(eps / self.eps) if isinstance(eps, Tensor) else eps / self.eps
        attack.alpha = (lambda t: ratio * alpha(t)) if callable(alpha) else ratio * alpha
        attack.eps = eps
        return attack

    # What they share.

    def _check_inputs(self, images: Tensor, labels: Tensor | None) -> None:
        _inputs.check_layout(images, self.channel_dim)
        _inputs.check_radius_shape("eps", self.eps, images)
        if isinstance(self.alpha, Tensor):
            _inputs.check_radius_shape("alpha", self.alpha, images)
        for bound in self.input_range or ():
            _inputs.check_radius_shape("input_range", bound, images)
        _inputs.check_values(images, box_for(self.input_range, images), self.input_range)
        _inputs.check_grid(images, self.levels)
        check_labels(labels, images)

    def _limits(self, images: Tensor) -> Limits:
        eps = self.eps.to(images.device) if isinstance(self.eps, Tensor) else self.eps
        return Limits(self.ball, eps, box_for(self.input_range, images), self.levels)

    def _view(self, images: Tensor, labels: Tensor | None, generator: torch.Generator) -> ModelView:
        subject = Subject(
            self.model,
            lambda x, *arguments: self.get_logits(x, None, *arguments),
            self._explanation,
            self._explanation_kwargs,
            self.output,
            self.channel_dim,
            normalised=self._normalization_applied is not None,
        )
        return ModelView(subject, images, labels, self._arguments, generator)

    def _search(
        self, images: Tensor, labels: Tensor | None, objective: Callable[[Explained], Objective]
    ) -> Tensor:
        generator = fresh_generator(self._generator, images.device)
        view = self._view(images, labels, generator)
        plan = Plan(
            self.steps,
            self.restarts,
            self.beta,
            self._limits(images),
            self.eps_output,
            self.attack if self.show_progress else None,
        )
        stepper = partial(self._stepper, images, generator)
        best = search(view, images, objective, stepper, plan, generator)
        self._report = best.report(draws=view.draws, again=view.clean_output)
        best.warn(self._report)
        return best.images
