"""Explanations with the least infidelity that is possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from captum.attr import PerturbationAttribution
from captum.log import log_usage

from captum_robust._utils.batching import copies_at_once
from captum_robust._utils.captum import format_inputs, format_output
from captum_robust._utils.checks import check_count, checked
from captum_robust._utils.explained_output import ExplainedOutput
from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust._utils.randomness import fresh_generator
from captum_robust._utils.types import TensorOrTensors
from captum_robust.attr._infidelity.optima import optimum
from captum_robust.attr._infidelity.problem import Problem
from captum_robust.perturbations import GaussianBaseline, Perturbation, Points, SquareRemoval
from captum_robust.perturbations.points import Baselines, FeatureMask


class InfidelityOptimal(PerturbationAttribution):
    r"""The explanation with the least infidelity for a distribution of perturbations.

    .. math:: \phi^* = \operatorname{argmin}_\phi
              E_I \left(I^\top \phi - (f(x) - f(x - I))\right)^2
              = E[I I^\top]^{-1} E[I\,(f(x) - f(x - I))]

    Known explanations are special cases: ``BaselineShift`` gives the shortest complete explanation,
    ``CoordinateStep`` the gradient in the limit, ``FeatureRemoval`` occlusion, ``ShapleyRemoval``
    the Shapley value. Where many explanations are optimal, it is the shortest; where the
    distribution is sampled, a ridge chosen by cross-validation keeps the explanation from learning
    the sample by heart.

    Args:
        forward_func: The model, or any function that calls it.
        perturbation: One of :mod:`captum_robust.perturbations`.
        multiply_by_inputs: Whether to give global attributions, which a feature's removal is worth,
            or local ones, per unit of the feature; as in Captum. None: the perturbation's natural
            form, global for removals and ``BaselineShift``, local for the others.

    Raises:
        TypeError: ``perturbation`` is not a ``Perturbation``.

    References:
        Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations", Proposition 2.1.

    Example:
        >>> import torch
        >>> from captum_robust.attr import InfidelityOptimal
        >>> from captum_robust.perturbations import ShapleyRemoval
        >>> explain = InfidelityOptimal(lambda x: x[:, 0] * x[:, 1] + x[:, 2], ShapleyRemoval())
        >>> explain.attribute(torch.tensor([[2.0, 3.0, 4.0]]))
        tensor([[3., 3., 4.]])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        perturbation: Perturbation,
        multiply_by_inputs: bool | None = None,
    ) -> None:
        if not isinstance(perturbation, Perturbation):
            raise TypeError(
                "perturbation must be one of captum_robust.perturbations, got "
                f"{type(perturbation).__name__}. Subclass Perturbation for one of your own."
            )
        super().__init__(forward_func)
        self.perturbation = perturbation
        natural = perturbation.multiplies_by_inputs
        self._multiply_by_inputs = natural if multiply_by_inputs is None else multiply_by_inputs

    @log_usage()
    @checked
    @outside_inference_mode
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: FeatureMask = None,
        n_samples: int | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        generator: torch.Generator | None = None,
    ) -> TensorOrTensors:
        """Explain ``inputs``.

        Args:
            inputs: Floating-point tensor or tuple of tensors, examples along dimension 0.
            baselines: x0: None (0), a number, a tensor of the inputs' shape or with one example to
                share, or a tuple of these.
            target: The class to explain, as in Captum.
            additional_forward_args: Further arguments of ``forward_func``, as in Captum.
            feature_mask: Groups of features that are removed together, as in Captum; for
                ``FeatureRemoval`` and ``ShapleyRemoval`` alone. The groups' attributions are
                spread over their features, so that they sum to the group's.
            n_samples: Number of perturbations of each example (gradients, for
                ``GaussianBaseline``). None: every feature, baseline or square (of more than 10,000
                squares 3,000), 2 K + 2048 subsets of K features, 50 gradients, 2,000 of all
                else. Where the distribution has no more members, each is taken once, without
                chance.
            perturbations_per_eval: Copies of each example that the model is given at once; None:
                what suits the device.
            show_progress: Whether to show a bar.
            generator: Where random numbers come from; None draws from a fresh, unpredictable one
                and leaves the global random state alone.

        Returns:
            Attributions of the shapes, dtypes and devices of ``inputs``.

        Raises:
            ValueError: ``inputs`` is empty, integer, NaN, Inf or of unequal length; a baseline or a
                mask does not fit; a count is below one; or the model returned NaN or Inf.

        Warns:
            UserWarning: The perturbation moves some features never, or its second moment is
                singular where it need not be.
        """
        self.perturbation.check_feature_mask(feature_mask)
        is_tuple, tensors = format_inputs(inputs)
        points = Points.of(tensors, baselines, feature_mask)
        if n_samples is not None:
            check_count(n_samples=n_samples)
        problem = Problem(
            points=points,
            output=ExplainedOutput(
                self.forward_func, points.inputs, target, additional_forward_args
            ),
            n_samples=n_samples,
            copies_at_once=copies_at_once(points.inputs, perturbations_per_eval),
            generator=fresh_generator(generator),
            multiply_by_inputs=self._multiply_by_inputs,
            show_progress=show_progress,
        )
        found = optimum(self.perturbation, problem)
        pairs = zip(found, tensors, strict=True)
        return format_output(is_tuple, tuple(a.to(x.dtype).view(x.shape) for a, x in pairs))

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are global (Captum's convention)."""
        return self._multiply_by_inputs


class Square(InfidelityOptimal):
    r"""What each pixel is worth, judged by the removal of squares.

    .. math:: \phi^* = \operatorname{argmin}_\phi \sum_Z
              \left(Z^\top \phi - (f(x) - f(x - Z \odot (x - x_0)))\right)^2

    over all squares :math:`Z`, or a sample of them; in a series they are intervals, in a volume
    cubes. :math:`E[Z Z^\top]` is in closed form, and the overlap of two squares a product: for n
    squares in an image of d pixels the n x d matrix is never made, nor, where n < d, the d x d one.

    The squares' sizes are part of the question. The default is that of the paper, for images of
    28 x 28; ``range(8, 81, 8)`` are the same parts of 224 x 224.

    Args:
        forward_func: The model, or any function that calls it.
        sizes: Sides of the squares in pixels.
        multiply_by_inputs: Whether to give global attributions (the default, as in the paper).
        channel_dim: Dimension of the inputs that holds channels; all others but the first are
            places. A tuple gives one per input. None: 1 for images (N, C, H, W) and volumes
            (N, C, D, H, W); for series, 1 for (N, C, T) and 2 for (N, T, C), it must be said.

    Raises:
        ValueError: ``sizes`` is empty or has a number below one; ``attribute`` is given inputs that
            squares do not fit into, or whose channels are not known.

    References:
        Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations", Section 2.4.

    Example:
        >>> import torch
        >>> from captum_robust.attr import Square
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> Square(lambda x: 2 * x.sum((1, 2, 3)), sizes=[1, 2]).attribute(image)
        tensor([[[[2., 4.],
                  [6., 8.]]]])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        sizes: Iterable[int] = range(1, 11),
        multiply_by_inputs: bool = True,
        channel_dim: int | tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(forward_func, SquareRemoval(sizes, channel_dim), multiply_by_inputs)


class NoisyBaseline(InfidelityOptimal):
    r"""The explanation that is complete, on average, against a noisy baseline.

    With :math:`\mu = x - x_0`, :math:`e \sim N(0, s^2)`, :math:`G = E[\nabla f(x_0 + e)]` and
    :math:`D = E[f(x) - f(x_0 + e)]`, Stein's lemma and Sherman-Morrison give the optimum for
    ``GaussianBaseline`` as

    .. math:: \phi^* = G + \mu\,\frac{D - \mu^\top G}{s^2 + |\mu|^2},

    at the price of ``n_samples`` gradients (default 50), without any matrix. The mean gradient is
    shrunk by what its own spread says of its error (James and Stein 1961), the more, the fewer the
    samples are. It looks at the model around the baseline; of the input it sees the output and the
    direction.

    Args:
        forward_func: The model, or any function that calls it; it must have gradients.
        stdev: s, in units of the inputs; a tuple gives one per input.
        multiply_by_inputs: Whether to multiply by x - x0; by default attributions are local, as in
            the paper.

    Raises:
        ValueError: ``stdev`` is not positive and finite.

    References:
        Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations", Section 2.4.

    Example:
        >>> import torch
        >>> from captum_robust.attr import NoisyBaseline
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> NoisyBaseline(lambda x: x @ torch.tensor([3.0, 4.0])).attribute(x)
        tensor([[3., 4.]])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        stdev: float | tuple[float, ...] = 0.2,
        multiply_by_inputs: bool = False,
    ) -> None:
        super().__init__(forward_func, GaussianBaseline(stdev), multiply_by_inputs)
