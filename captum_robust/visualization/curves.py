"""Means of curves, with confidence bands."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import torch
from matplotlib.figure import Figure
from torch import Tensor

_FONT = 9


def mean_curves(
    x: Tensor,
    curves: Mapping[str, Tensor],
    *,
    x_title: str = "share of features removed",
    y_title: str = "probability of the target",
    confidence: float = 0.95,
    figure: Figure | None = None,
) -> Figure:
    r"""The mean of each group of curves, with a band for the mean's confidence interval.

    .. math:: \bar y_t \pm z\, s_t / \sqrt{N}

    with the standard deviation s over the N curves, the normal approximation. A single curve has
    no band.

    Args:
        x: Where the curves are known, (T,), such as ``FlippingCurves.fractions``.
        curves: Name to (N, T), such as ``FlippingCurves.probabilities``.
        x_title: Of the horizontal axis, with its unit.
        y_title: Of the vertical axis, with its unit.
        confidence: Of the bands, between 0 and 1.
        figure: Drawn in and resized, such as ``plt.figure()``; None: one unknown to pyplot.

    Returns:
        The figure.

    Raises:
        TypeError: ``curves`` is not a mapping of tensors.
        ValueError: Shapes do not agree, a number is NaN or Inf, or ``confidence`` is out of range.

    Example:
        >>> import torch
        >>> from captum_robust.visualization import mean_curves
        >>> curves = {"gradient": torch.rand(20, 11), "random order": torch.rand(20, 11)}
        >>> figure = mean_curves(torch.linspace(0, 1, 11), curves)
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['gradient', 'random order']
    """
    _check(x, curves, confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    figure = Figure() if figure is None else figure
    figure.set_size_inches(5.0, 3.4)
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    at = x.detach().cpu().double().numpy()
    for name, values in curves.items():
        values = values.detach().cpu().double()
        mean = values.mean(0)
        (line,) = axis.plot(at, mean.numpy(), label=name, linewidth=1.6)
        if len(values) > 1:
            half = z * values.std(0) / len(values) ** 0.5
            low, high = (mean - half).numpy(), (mean + half).numpy()
            axis.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axis.set_xlabel(x_title, fontsize=_FONT)
    axis.set_ylabel(y_title, fontsize=_FONT)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=_FONT)
    return figure


def _check(x: Tensor, curves: Mapping[str, Tensor], confidence: float) -> None:
    if not isinstance(curves, Mapping) or not all(isinstance(c, Tensor) for c in curves.values()):
        raise TypeError('curves must be a dictionary of tensors, such as {"gradient": tensor}.')
    if not curves:
        raise ValueError("curves is empty; give at least one group.")
    if not isinstance(x, Tensor) or x.ndim != 1 or len(x) == 0:
        raise ValueError("x must be a tensor (T,), where the curves are known.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95, got {confidence}.")
    for name, values in (("x", x.unsqueeze(0)), *curves.items()):
        if values.ndim != 2 or values.shape[1] != len(x) or len(values) == 0:
            raise ValueError(
                f"curves[{name!r}] must be (N, {len(x)}), a row for each curve, got shape "
                f"{tuple(values.shape)}."
            )
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} contains NaN or Inf; find it with torch.isfinite.")
