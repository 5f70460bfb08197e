"""The explanation of a row of a table, as bars."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from captum_robust._utils.checks import check_count
from captum_robust._utils.columns import check_groups, column_attributions

_COLOURS = ("#4878a8", "#d8823a")  # told apart by the colour-blind, too
_INCHES = 0.42  # of a feature
_FONT = 9


def explanation_bars(
    before: Tensor,
    after: Tensor | None = None,
    feature_names: Sequence[str] | None = None,
    *,
    groups: Tensor | None = None,
    shared: bool = False,
    n_features: int = 12,
    legend: tuple[str, str] = ("before", "after"),
    axis_title: str = "attribution",
    figure: Figure | None = None,
) -> Figure:
    """Horizontal bars of the features that matter most, before and after an attack.

    The features are those of the largest magnitude, in ``before`` or in ``after``, with the most
    important of ``before`` on top; below stands how many of all they are.

    Args:
        before: The attributions of one row, (F,) or (1, F).
        after: Of the same row once attacked, or by another model; None: one bar per feature.
        feature_names: F texts, or one for each of the ``groups``; None: the numbers from 0 on.
        groups: (F,) or (1, F), the column of each feature, from 0 on: the bars are those of
            columns, each the sum of its features. None: a bar for each feature.
        shared: Whether the features of a column share one attribution, which is drawn instead of
            their sum: of LIME and KernelSHAP with ``feature_mask=groups``.
        n_features: Features that are shown at most.
        legend: What the two bars are.
        axis_title: What the numbers are, with their unit.
        figure: Drawn in and resized, such as ``plt.figure()``; None: one unknown to pyplot.

    Returns:
        The figure.

    Raises:
        TypeError: An explanation is not a floating-point tensor, ``groups`` are not whole numbers,
            or ``n_features`` is not one.
        ValueError: An explanation is not one row, empty, NaN or Inf; shapes, ``groups`` or the
            number of names do not agree; or ``n_features`` is below one.

    Example:
        >>> import torch
        >>> from captum_robust.visualization import explanation_bars
        >>> before, after = torch.tensor([0.7, -0.2, 0.1]), torch.tensor([0.1, -0.2, 0.8])
        >>> figure = explanation_bars(before, after, ["age", "income", "debt"], n_features=2)
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['age', 'debt']
    """
    rows = [_one_row("before", before)] + ([] if after is None else [_one_row("after", after)])
    _check_shapes(rows, n_features)
    if groups is not None:
        check_groups(groups, len(rows[0]))
        rows = [column_attributions(row.unsqueeze(0), groups, shared=shared)[0] for row in rows]
    _check_names(feature_names, len(rows[0]), "features" if groups is None else "columns")
    if len(legend) < len(rows):
        raise ValueError(f"legend must name {len(rows)} explanations, got {len(legend)} names.")
    n = len(rows[0])
    strength = torch.stack([row.abs() for row in rows]).amax(0)
    chosen = strength.topk(min(n_features, n)).indices
    chosen = chosen[rows[0][chosen].abs().argsort(descending=True, stable=True)]
    names = [str(i) if feature_names is None else feature_names[i] for i in chosen.tolist()]
    figure = Figure() if figure is None else figure
    figure.set_size_inches(5.0, 0.9 + _INCHES * len(chosen))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    height = 0.8 / len(rows)
    for i, (row, colour) in enumerate(zip(rows, _COLOURS, strict=False)):
        offset = (i - (len(rows) - 1) / 2) * height
        places = [place + offset for place in range(len(chosen))]
        label = legend[i] if len(rows) > 1 else None
        axis.barh(places, row[chosen].tolist(), height, color=colour, label=label)
    axis.set_yticks(range(len(chosen)), names, fontsize=_FONT)
    axis.invert_yaxis()
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    of_what = "features" if groups is None else "columns"
    left_out = f" ({len(chosen)} of {n} {of_what})" if n > len(chosen) else ""
    axis.set_xlabel(axis_title + left_out, fontsize=_FONT)
    if len(rows) > 1:
        # Above the axes, where it hides no bar.
        axis.legend(frameon=False, fontsize=_FONT, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def _one_row(name: str, explanation: Tensor) -> Tensor:
    if not isinstance(explanation, Tensor) or not explanation.is_floating_point():
        kind = explanation.dtype if isinstance(explanation, Tensor) else type(explanation).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {kind}; use .float().")
    row = explanation.detach().cpu().double()
    row = row[0] if row.ndim == 2 and len(row) == 1 else row
    if row.ndim != 1 or len(row) == 0:
        raise ValueError(
            f"{name} must be the explanation of one row, (F,), got shape "
            f"{tuple(explanation.shape)}; choose one with {name}[i]."
        )
    if not bool(torch.isfinite(row).all()):
        raise ValueError(f"{name} contains NaN or Inf; find it with torch.isfinite.")
    return row


def _check_shapes(rows: list[Tensor], n_features: int) -> None:
    check_count(n_features=n_features)
    if len({len(row) for row in rows}) > 1:
        raise ValueError(
            f"after must have the {len(rows[0])} features of before, got {len(rows[1])}."
        )


def _check_names(feature_names: Sequence[str] | None, n: int, of_what: str) -> None:
    if feature_names is not None and len(feature_names) != n:
        raise ValueError(
            f"feature_names must have {n} elements, one for each of the {of_what}, got "
            f"{len(feature_names)}."
        )
