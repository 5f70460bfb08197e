"""A network whose rectifiers are smooth, as a module."""

from __future__ import annotations

from typing import Any

from torch import nn

from captum_robust._utils.checks import check_positive
from captum_robust.attr import softplus_activations


class SoftplusNetwork(nn.Module):
    r"""A network with softplus instead of its rectifiers, for good and not only while explained.

    .. math:: \mathrm{relu}(z) \to \log(1 + e^{\beta z}) / \beta

    Trained on labels, it is the baseline of Tang et al. (2021), after Dombrowski et al. (2019); it
    is an ordinary module to Captum, attacks and trainers. The weights are those of ``network``.

    Args:
        network: Any module; see :func:`~captum_robust.attr.softplus_activations` for what of it
            becomes smooth.
        beta: Sharpness.

    Raises:
        ValueError: ``beta`` is not positive and finite.

    Example:
        >>> import torch
        >>> SoftplusNetwork(torch.nn.ReLU(), beta=1.0)(torch.tensor([0.0]))
        tensor([0.6931])
    """

    def __init__(self, network: nn.Module, beta: float = 10.0) -> None:
        super().__init__()
        check_positive(beta=beta)
        self.network, self.beta = network, beta

    def forward(self, *args: Any, **kwargs: Any) -> object:
        """The network's output, with smooth rectifiers."""
        with softplus_activations(self.beta):
            return self.network(*args, **kwargs)

    def extra_repr(self) -> str:
        """Show beta."""
        return f"beta={self.beta}"
