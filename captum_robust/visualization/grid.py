"""Images and their explanations side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
from captum.attr import visualization as captum_visualization
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from captum_robust.visualization._pictures import (
    amplified,
    channels_first,
    check_pictures,
    with_factor,
)

_CELL_INCHES, _GAP_INCHES, _BAR_INCHES = 1.5, 0.08, 0.65
_LINE_INCHES, _CHARACTER_INCHES = 0.17, 0.08  # of titles, about
_TITLE_POINTS, _CAPTION_POINTS = 9, 8
_ROW_TITLE_CHARACTERS = 18


class _Texts(NamedTuple):
    """Texts around the pictures, their lines broken; empty where there are none."""

    rows: Sequence[str]
    columns: Sequence[str]
    captions: Sequence[Sequence[str]]


class _Style(NamedTuple):
    cmap: str
    limits: tuple[float, float]
    labels: dict[float, str]  # of the colour bar


_STYLES = {
    "absolute_value": _Style("inferno", (0, 1), {0: "0", 1: "high"}),
    "positive": _Style("inferno", (0, 1), {0: "0", 1: "for"}),
    "negative": _Style("inferno", (0, 1), {0: "0", 1: "against"}),
    "all": _Style("RdBu_r", (-1, 1), {-1: "against", 0: "0", 1: "for"}),
}


def explanation_grid(
    images: Tensor | None,
    attributions: Sequence[Tensor],
    row_titles: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
    *,
    change: Tensor | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    transpose: bool = False,
    channel_dim: int = 1,
    sign: str = "absolute_value",
    alpha_overlay: float | None = None,
    outlier_perc: float = 2.0,
    figure: Figure | None = None,
) -> Figure:
    """Table of pictures: a row for each example, its image and its explanations side by side.

    Each map has its own scale, whose end is shared, as in Captum, by its strongest numbers: those
    that make up ``outlier_perc`` per cent of its sum. Channels are summed, for "absolute_value"
    their magnitudes. Long titles and captions are wrapped.

    Args:
        images: (N, C, H, W) with C = 1 or 3, in [0, 1]: the first column. None leaves it out.
        attributions: A tensor for each further column, explanations (N, C, H, W) or maps (N, H, W).
        row_titles: N texts, left of the rows.
        column_titles: A text for each column, those of images and change included.
        change: What an attack added, (N, C, H, W) in the unit of the images: a column after them.
            All are amplified by the same factor, grey where nothing changed, so that the largest
            is black or white; the column's title says by how much.
        captions: For each row a text for each column, below the picture; "" for none.
        transpose: Whether examples stand side by side instead, images in the first row. Titles and
            captions are those of the rows and columns that one sees.
        channel_dim: Where C is in tensors of four dimensions, -1 for (N, H, W, C).
        sign: "absolute_value", "positive", "negative" or "all", as in Captum.
        alpha_overlay: Opacity, from 0 to 1, of maps laid over the grey image; None shows them bare.
        outlier_perc: From 0 to below 100.
        figure: Drawn in and resized, such as ``plt.figure()``; None: one unknown to pyplot.

    Returns:
        The figure: ``.savefig("name.png", dpi=200)`` writes it, a notebook shows it.

    Raises:
        ValueError: Shapes or numbers of texts do not agree, a number is NaN, Inf or, of ``images``,
            outside [0, 1], or an option is out of range.

    Example:
        >>> import torch
        >>> from captum_robust.visualization import explanation_grid
        >>> images, gradients = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
        >>> figure = explanation_grid(images, [gradients], ["clean", "attacked"])
        >>> len(figure.axes)  # two rows of two pictures, and the colour bar
        5
    """
    images, change, attributions = channels_first(images, change, attributions, channel_dim)
    check_pictures(images, change, attributions)
    _check_options(images, sign, alpha_overlay, outlier_perc)
    pictures = [] if images is None else [images]
    n_rows, n_columns = len(attributions[0]), len(attributions) + len(pictures)
    if change is not None:
        changes, factor = amplified(change)
        place = len(pictures)
        pictures.append(changes)
        n_columns += 1
    if transpose:
        n_rows, n_columns = n_columns, n_rows
    _check_texts(n_rows, n_columns, row_titles, column_titles, captions)
    if change is not None and transpose:
        row_titles = with_factor(row_titles, place, n_rows, factor)
    elif change is not None:
        column_titles = with_factor(column_titles, place, n_columns, factor)
    height, width = attributions[0].shape[-2:]
    cell = (_CELL_INCHES * max(1.0, width / height), _CELL_INCHES * max(1.0, height / width))
    n_characters = int(cell[0] / _CHARACTER_INCHES)
    texts = _Texts(
        [_wrap(title, _ROW_TITLE_CHARACTERS) for title in row_titles or ()],
        [_wrap(title, n_characters) for title in column_titles or ()],
        [[_wrap(caption, n_characters) for caption in row] for row in captions or ()],
    )
    figure = Figure() if figure is None else figure
    figure.set_size_inches(_fitting_size(n_rows, n_columns, cell, texts))
    figure.set_layout_engine("compressed", w_pad=_GAP_INCHES / 2, h_pad=_GAP_INCHES / 2)
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for i, cells in enumerate(axes.T if transpose else axes):
        shown = [p[i].detach().movedim(0, -1).cpu().double() for p in pictures]
        for axis, picture in zip(cells, shown, strict=False):
            axis.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1)
        image = None if images is None else shown[0]
        for axis, explanations in zip(cells[-len(attributions) :], attributions, strict=True):
            below = None if image is None or alpha_overlay is None else (image, alpha_overlay)
            _draw_map(figure, axis, explanations[i], below, sign, outlier_perc)
    _write_texts(axes, texts)
    _add_colour_bar(figure, axes, _STYLES[sign])
    return figure


def _wrap(text: str, n_characters: int) -> str:
    return textwrap.fill(text, n_characters, break_long_words=False)


def _fitting_size(
    n_rows: int, n_columns: int, cell: tuple[float, float], texts: _Texts
) -> tuple[float, float]:
    """Width and height, in inches, that leave hardly any margin."""
    row_lines = [line for title in texts.rows for line in title.splitlines()]
    left = _CHARACTER_INCHES * max(map(len, row_lines), default=0)
    top = _LINE_INCHES * max((1 + title.count("\n") for title in texts.columns), default=0)
    below = _LINE_INCHES * max(
        (1 + t.count("\n") for row in texts.captions for t in row), default=0
    )
    return (
        left + n_columns * (cell[0] + _GAP_INCHES) + _BAR_INCHES,
        top + n_rows * (cell[1] + _GAP_INCHES + below),
    )


def _draw_map(
    figure: Figure,
    axis: Axes,
    explanation: Tensor,
    below: tuple[Tensor, float] | None,
    sign: str,
    outlier_perc: float,
) -> None:
    """Draw (C, H, W) or (H, W) with Captum, over an image (H, W, C) where ``below`` holds one."""
    numbers = explanation.detach().cpu().double()
    if sign == "absolute_value":
        numbers = numbers.abs()
    if numbers.ndim == 3:
        numbers = numbers.sum(0)
    if sign in ("positive", "negative"):
        numbers = (numbers * (1 if sign == "positive" else -1)).clamp(min=0)
    style, mean = _STYLES[sign], numbers.abs().mean()
    if mean == 0:  # Captum has no scale for it
        axis.imshow(numbers.cpu().numpy(), style.cmap, vmin=style.limits[0], vmax=style.limits[1])
        return
    overlay: dict[str, Any] = {}
    if below is not None:
        overlay = {"original_image": below[0].numpy(), "alpha_overlay": below[1]}
    captum_visualization.visualize_image_attr(
        # Captum warns of numbers near zero, such as those of relevance maps: give it a mean of one.
        (numbers / mean).cpu().numpy(),
        method="heat_map" if below is None else "blended_heat_map",
        sign="all" if sign == "all" else "positive",
        plt_fig_axis=(figure, axis),
        outlier_perc=max(outlier_perc, 1e-9),  # with 0 Captum may fail, by rounding
        cmap=style.cmap,
        use_pyplot=False,
        **overlay,
    )


def _write_texts(axes: npt.NDArray[Any], texts: _Texts) -> None:
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(linewidth=0.5, color="0.6")
    left = {"rotation": 0, "ha": "right", "va": "center", "labelpad": 8}
    for axis, title in zip(axes[:, 0], texts.rows, strict=False):
        axis.set_ylabel(title, fontsize=_TITLE_POINTS, **left)
    for axis, title in zip(axes[0], texts.columns, strict=False):
        axis.set_title(title, fontsize=_TITLE_POINTS, pad=5)
    for row, captions in zip(axes, texts.captions, strict=False):
        for axis, caption in zip(row, captions, strict=True):
            axis.set_xlabel(caption, fontsize=_CAPTION_POINTS, color="0.3", labelpad=3)


def _add_colour_bar(figure: Figure, axes: npt.NDArray[Any], style: _Style) -> None:
    scale = ScalarMappable(Normalize(*style.limits), style.cmap)
    # No longer than two rows, and thin: a key to the colours, not a picture.
    bar = figure.colorbar(
        scale,
        ax=axes,
        ticks=list(style.labels),
        shrink=min(1.0, 2 / len(axes)),
        aspect=30,
        pad=0.02,
    )
    bar.ax.set_yticklabels(list(style.labels.values()), fontsize=_CAPTION_POINTS)
    bar.ax.tick_params(length=0)
    bar.outline.set(linewidth=0.5, edgecolor="0.6")


def _check_options(
    images: Tensor | None, sign: str, alpha_overlay: float | None, outlier_perc: float
) -> None:
    if sign not in _STYLES:
        raise ValueError(f"sign must be one of {', '.join(_STYLES)}, got {sign!r}.")
    if not 0 <= outlier_perc < 100:
        raise ValueError(f"outlier_perc must be from 0 to below 100, got {outlier_perc}.")
    if alpha_overlay is not None and (images is None or not 0 <= alpha_overlay <= 1):
        raise ValueError(
            f"alpha_overlay must be from 0 to 1 and needs images to lie on, got {alpha_overlay}."
        )


def _check_texts(
    n_rows: int,
    n_columns: int,
    row_titles: Sequence[str] | None,
    column_titles: Sequence[str] | None,
    captions: Sequence[Sequence[str]] | None,
) -> None:
    for name, texts, n in (
        ("row_titles", row_titles, n_rows),
        ("column_titles", column_titles, n_columns),
        ("captions", captions, n_rows),
    ):
        if texts is not None and len(texts) != n:
            raise ValueError(f"{name} must have {n} elements, got {len(texts)}.")
    for row, texts in enumerate(captions or ()):
        if len(texts) != n_columns:
            raise ValueError(f"captions[{row}] must have {n_columns} texts, got {len(texts)}.")
