"""What a distribution of perturbations is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from captum_robust._utils.captum import format_inputs, format_output
from captum_robust._utils.randomness import fresh_generator
from captum_robust._utils.types import TensorOrTensors, Tensors
from captum_robust.perturbations.points import Baselines, FeatureMask, Points
from captum_robust.perturbations.stream import Stream, copies_of, first_copies


class Perturbation(ABC):
    r"""A distribution of perturbations I: what counts as a significant change of the input.

    An explanation :math:`\phi` is faithful where :math:`I^\top \phi` tells what the output loses
    when the input :math:`x` becomes :math:`x - I`; :func:`captum_robust.metrics.infidelity`
    measures that, :class:`captum_robust.attr.InfidelityOptimal` optimises it.

    A distribution of your own is a subclass with the method :meth:`shifts`. Features are tensors
    of the inputs' shapes; where the inputs are a tuple, so is a perturbation.

    Attributes:
        multiplies_by_inputs: The form of attributions that the distribution naturally measures, in
            Captum's sense: global ones (True), which :math:`I` multiplies as shares of the way to
            the baseline, :math:`I / (x - x_0)`; or local ones (False), which it multiplies as it
            is.
        takes_feature_mask: Whether a feature mask means something to the distribution; where it
            does not, to give one is an error.

    References:
        Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations", Section 2.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations import Perturbation, Points
        >>> class Darker(Perturbation):
        ...     def shifts(self, points, n_samples, generator):
        ...         share = torch.rand(len(points), n_samples, 1, generator=generator)
        ...         return tuple(share * x.unsqueeze(1) for x in points.inputs)
        >>> points = Points.of(torch.tensor([[1.0, 2.0]]))
        >>> Darker().shifts(points, 2, torch.Generator().manual_seed(0))
        (tensor([[[0.4963, 0.9925],
                 [0.7682, 1.5364]]]),)
    """

    multiplies_by_inputs: bool = False
    takes_feature_mask: bool = True

    @abstractmethod
    def shifts(self, points: Points, n_samples: int, generator: torch.Generator) -> Tensors:
        """Draw I.

        Args:
            points: The inputs, with baselines and feature mask.
            n_samples: How many perturbations of each example.
            generator: Where random numbers come from.

        Returns:
            One tensor (N, n_samples, ...) per input, in its dtype and on its device.
        """

    def sample(
        self,
        points: Points,
        n_samples: int,
        generator: torch.Generator,
        multiply_by_inputs: bool | None = None,
    ) -> tuple[Tensors, Tensors]:
        """Draw what multiplies the attributions, and the perturbed inputs.

        Args:
            points: The inputs, with baselines and feature mask.
            n_samples: How many perturbations of each example.
            generator: Where random numbers come from.
            multiply_by_inputs: Whether the attributions are global; None: ``multiplies_by_inputs``.

        Returns:
            Two tuples of tensors (N, n_samples, ...): I for local attributions, I / (x - x0) for
            global ones (I itself where x = x0, as in Captum), and x - I.
        """
        return self._draw(points, n_samples, generator, self._in_global_form(multiply_by_inputs))

    def _draw(
        self, points: Points, n_samples: int, generator: torch.Generator, in_global_form: bool
    ) -> tuple[Tensors, Tensors]:
        shifts = self.shifts(points, n_samples, generator)
        self._check(shifts, points, n_samples)
        perturbed = tuple(x.unsqueeze(1) - i for x, i in zip(points.inputs, shifts, strict=True))
        if in_global_form:
            differences = [torch.where(d == 0, 1.0, d).unsqueeze(1) for d in points.differences]
            shifts = tuple(i / d for i, d in zip(shifts, differences, strict=True))
        return shifts, perturbed

    def stream(
        self,
        points: Points,
        generator: torch.Generator,
        multiply_by_inputs: bool | None = None,
    ) -> Stream:
        """Samples as :meth:`sample` draws them, in portions of any size that do not change them."""
        draw = partial(
            self.sample, points, generator=generator, multiply_by_inputs=multiply_by_inputs
        )
        return Stream(points, draw)

    def second_moment(self, points: Points, multiply_by_inputs: bool | None = None) -> Tensor:
        r"""The exact :math:`E[I I^\top]`, for small inputs: it has d x d entries for d features.

        Args:
            points: The inputs, with baselines and feature mask.
            multiply_by_inputs: Whether that of I / (x - x0) is asked for; None:
                ``multiplies_by_inputs``.

        Returns:
            (N, d, d) in float64; the features of all inputs one after another.

        Raises:
            NotImplementedError: The distribution has no closed form.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no second moment in closed form; estimate it from sample()."
        )

    def perturb_func(
        self,
        generator: torch.Generator | None = None,
        *,
        n_examples: int | None = None,
        feature_mask: FeatureMask = None,
        multiply_by_inputs: bool | None = None,
    ) -> Callable[..., tuple[Tensor | Tensors, Tensor | Tensors]]:
        """This distribution as ``perturb_func`` of :func:`captum.metrics.infidelity`.

        Args:
            generator: Where random numbers come from; None draws from a fresh, unpredictable one.
            n_examples: How many examples the metric is given. With it, the draws do not depend on
                the metric's ``max_examples_per_batch``, and ``feature_mask`` may differ between
                examples.
            feature_mask: Groups of features, as in Captum; where the distribution removes groups.
            multiply_by_inputs: Whether the attributions are global; None: ``multiplies_by_inputs``.

        Returns:
            A function of inputs and, optionally, baselines.

        Example:
            >>> import torch
            >>> from captum.metrics import infidelity
            >>> from captum_robust.perturbations import BaselineShift
            >>> x, weights = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
            >>> infidelity(lambda x: x @ weights[0], BaselineShift().perturb_func(), x, weights * x)
            tensor([0.])
        """
        self.check_feature_mask(feature_mask)
        source = fresh_generator(generator)
        stream: Stream | None = None

        def perturb(
            inputs: TensorOrTensors, baselines: Baselines = None
        ) -> tuple[TensorOrTensors, TensorOrTensors]:
            nonlocal stream
            is_tuple, rows = format_inputs(inputs)
            n_copies = 1
            if n_examples is not None:
                n_copies = copies_of(n_examples, len(rows[0]))
                rows = tuple(x[::n_copies].clone() for x in rows)
                baselines = first_copies(baselines, n_copies, n_examples)
            points = Points.of(rows, baselines, feature_mask)
            if n_examples is None or stream is None or not stream.points.same_as(points):
                stream = self.stream(points, source, multiply_by_inputs)
            drawn = stream.take(n_copies)
            multipliers, perturbed = (
                format_output(is_tuple, tuple(t.flatten(0, 1) for t in part)) for part in drawn
            )
            return multipliers, perturbed

        return perturb

    def check_feature_mask(self, feature_mask: FeatureMask) -> None:
        """Raise ValueError where a feature mask is given that the distribution would ignore."""
        if feature_mask is not None and not self.takes_feature_mask:
            raise ValueError(
                f"feature_mask: {type(self).__name__} knows no groups of features. Leave it out, "
                "or take FeatureRemoval or ShapleyRemoval."
            )

    def _check(self, shifts: object, points: Points, n_samples: int) -> None:
        wanted = [(len(points), n_samples, *x.shape[1:]) for x in points.inputs]
        given: object = type(shifts).__name__
        if isinstance(shifts, (tuple, list)):
            given = [tuple(i.shape) for i in shifts]
        if given != wanted:
            raise ValueError(
                f"shifts of {type(self).__name__} must be a tuple of tensors of the shapes "
                f"{wanted}, one per input, got {given}."
            )

    def _in_global_form(self, multiply_by_inputs: bool | None) -> bool:
        return self.multiplies_by_inputs if multiply_by_inputs is None else multiply_by_inputs

    def __repr__(self) -> str:
        public = {k: v for k, v in vars(self).items() if v is not None and k[0] != "_"}
        settings = ", ".join(f"{k}={v!r}" for k, v in public.items())
        return f"{type(self).__name__}({settings})"
