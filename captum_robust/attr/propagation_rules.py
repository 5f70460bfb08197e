"""How a neuron divides its relevance: the rules of :class:`RelevancePropagation`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from captum_robust._utils.checks import check_positive


class PropagationRule(ABC):
    r"""How a neuron j divides its relevance among its contributions :math:`z_{ij} = x_i w_{ij}`.

    .. math:: R_i = \sum_j z_{ij}^+ r_j^+ + z_{ij}^- r_j^-

    with a ratio :math:`r^+` for the positive contributions and :math:`r^-` for the negative ones.
    A rule computes the two from the sums of the contributions, :math:`z_j^+` and :math:`z_j^-`. It
    conserves relevance where :math:`z_j^+ r_j^+ + z_j^- r_j^- = R_j`. Linear layers, convolutions,
    sums and averages are all such neurons. Write your own rule as a subclass.
    """

    ignores_negative: ClassVar[bool] = False
    """Whether layers give negative contributions nothing: ``minus`` is None for them."""

    shares_evenly: ClassVar[bool] = False
    """Whether the inputs of a neuron that nothing contributes to share its relevance evenly."""

    uses_bias: ClassVar[bool] = False
    """Whether ``bias`` is needed; it is None otherwise."""

    keeps_signs: ClassVar[bool] = False
    """Whether relevance goes in proportion to signed values: normalisations do the same then."""

    @abstractmethod
    def ratios(
        self, relevance: Tensor, plus: Tensor, minus: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        r"""The two ratios of every neuron.

        Args:
            relevance: :math:`R_j`.
            plus: :math:`z_j^+ \ge 0`, the sum of the positive contributions.
            minus: :math:`z_j^- \le 0`, the sum of the negative ones.
            bias: :math:`b_j`, broadcastable; None where there is none.
        """

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


class ZPlusRule(PropagationRule):
    r"""Positive contributions share the relevance; negative ones and the bias take nothing.

    .. math:: R_i = \sum_j \frac{z_{ij}^+}{z_j^+} R_j

    A neuron without any positive contribution, held up by its bias alone, loses its relevance. Sums
    and averages share by their negative parts there.

    References:
        Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor
        decomposition"; Dombrowski et al. 2019, Eq. 2.

    Example:
        >>> import torch
        >>> from captum_robust.attr import ZPlusRule
        >>> ratios = ZPlusRule().ratios(torch.ones(1), torch.tensor([4.0]), None, None)
        >>> ratios[0]
        tensor([0.2500])
    """

    ignores_negative = True

    def ratios(
        self, relevance: Tensor, plus: Tensor, minus: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """R / z+; where z+ is 0, and only there, R / z- for the negative contributions."""
        above = quotient(relevance, plus)
        if minus is None:
            return above, above
        none = plus < nothing(plus)
        return above, quotient(torch.where(none, relevance, 0.0), minus)


class GammaRule(PropagationRule):
    r"""All contributions share; those of the sign of the neuron count more, by ``gamma``.

    .. math:: R_i = \sum_j \frac{z_{ij} + \gamma z_{ij}^{s}}{z_j + \gamma z_j^{s}} R_j, \qquad
              z_j = \sum_i z_{ij},\quad s = \mathrm{sign}(z_j)

    The bias takes nothing, so relevance is conserved in every layer, also in
    depthwise convolutions: the inputs of a neuron that nothing contributes to share its relevance
    evenly. The denominator is never
    smaller than the numerator's sum of one sign: nothing is amplified by more than 1 + 2 / gamma.
    The limit of a large gamma is :class:`ZPlusRule` without its loss.

    Args:
        gamma: How much more; positive. Montavon et al. take 0.25.

    References:
        Montavon et al. 2019, "Layer-wise relevance propagation: an overview"; the form for neurons
        of either sign: Andéol et al. 2021, "Learning domain invariant representations by joint
        Wasserstein distance minimization".

    Example:
        >>> import torch
        >>> from captum_robust.attr import GammaRule
        >>> GammaRule(0.5).ratios(torch.tensor(1.0), torch.tensor(4.0), torch.tensor(-2.0), None)
        (tensor(0.3750), tensor(0.2500))
    """

    shares_evenly = True

    def __init__(self, gamma: float = 0.25) -> None:
        check_positive(gamma=gamma)
        self.gamma = gamma

    def ratios(
        self, relevance: Tensor, plus: Tensor, minus: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(1 + gamma) R / (z + gamma z^s) for contributions of the sign s, else without gamma."""
        assert minus is not None
        total = plus + minus
        is_up = total >= 0
        ratio = quotient(relevance, total + self.gamma * torch.where(is_up, plus, minus))
        more = (1 + self.gamma) * ratio
        return torch.where(is_up, more, ratio), torch.where(is_up, ratio, more)


class EpsilonRule(PropagationRule):
    r"""Contributions share in proportion, with their signs.

    .. math:: R_i = \sum_j \frac{z_{ij} + (b_j + \epsilon_j)\,|z_{ij}| / \sum_k |z_{kj}|}
                    {z_j + b_j + \epsilon_j} R_j, \qquad
              \epsilon_j = \epsilon\,\mathrm{sign}(z_j + b_j)

    By default the numerator is :math:`z_{ij}` alone, as in Bach et al.: the share of a bias is
    lost, and the explanation of a network of rectifiers is the gradient times the input, over the
    output. A constant that is added outside of a layer, such as a position embedding, takes
    nothing.
    Without ``bias_takes_relevance`` the share of the bias, and of :math:`\epsilon`, goes to the
    inputs in proportion to the size of their contributions, and layers conserve relevance. Where
    biases are strong and layers many, that gives much to neurons that are almost off, and the
    layers below amplify it without bound: :class:`GammaRule` conserves and stays bounded.

    Args:
        epsilon: Keeps the denominator away from 0; positive.
        bias_takes_relevance: If True, its share is lost; if False, it goes to the inputs.

    References:
        Bach et al. 2015, Eq. 58 and 60; Arras et al. 2017, "Explaining recurrent neural network
        predictions in sentiment analysis", hand on the share of the bias, in equal parts.

    Example:
        >>> import torch
        >>> from captum_robust.attr import EpsilonRule
        >>> EpsilonRule().ratios(torch.tensor(1.0), torch.tensor(4.0), torch.tensor(-2.0), None)
        (tensor(0.5000), tensor(0.5000))
    """

    uses_bias = True
    keeps_signs = True

    def __init__(self, epsilon: float = 1e-6, bias_takes_relevance: bool = True) -> None:
        check_positive(epsilon=epsilon)
        self.epsilon, self.bias_takes_relevance = epsilon, bias_takes_relevance

    def ratios(
        self, relevance: Tensor, plus: Tensor, minus: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """R / (z + b + epsilon) for all; and the bias's share, by size."""
        assert minus is not None
        total = plus + minus if bias is None else plus + minus + bias
        epsilon = torch.where(total >= 0, self.epsilon, -self.epsilon).to(total.dtype)
        ratio = relevance / (total + epsilon)
        ratio = ratio.to(total.dtype)
        if self.bias_takes_relevance:
            return ratio, ratio
        unclaimed = epsilon if bias is None else epsilon + bias
        by_size = ratio * quotient(unclaimed, plus - minus)
        return ratio + by_size, ratio - by_size


def quotient(relevance: Tensor, total: Tensor) -> Tensor:
    """The ratio; 0 where nothing contributes, and so nothing can take the relevance."""
    ratio = relevance / torch.where(total.abs() >= nothing(total), total, torch.inf)
    return ratio.to(total.dtype)  # parts of a model may run in another precision


def nothing(total: Tensor) -> float:
    """The total below which nothing contributes: 6e-16 in single precision, 5e-124 in double.

    Softplus leaves a trace of every value that a rectifier makes 0. The derivatives of a ratio
    divide by the total again: they would overflow where the ratio itself does not yet.
    """
    return torch.finfo(total.dtype).tiny ** 0.4
