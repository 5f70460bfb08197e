"""Pictures for a report: examples as PNG, curves as points of an SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.image import imsave

from captum_robust.audit.change import enclosed, largest
from captum_robust.audit.results import Example, ExplanationSummary, Findings

Array = npt.NDArray[np.float32]

WIDTH, HEIGHT, MARGIN = 320.0, 200.0, 40.0
"""Of a curve, in units of its SVG."""

_BARS_AT_MOST = 30
_LARGE = 64
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """A picture with the words that belong to it.

    Attributes:
        source: The picture as a data URI.
        caption: What to see.
        pixelated: Whether its pixels are so few that each is to be seen.
    """

    source: str
    caption: str
    pixelated: bool


@dataclass(frozen=True)
class Bar:
    """A feature of a table row, before and after the attack; lengths are percentages."""

    feature: str
    before: float
    after: float
    change: float


def pictures_of(example: Example, title: str) -> list[Picture]:
    """Image, explanation before and after, and the change amplified; empty where there is no image.

    A volume is shown by its middle slice.
    """
    if example.before.ndim < 2:
        return []
    change = example.moved - example.input
    largest = float(np.abs(change).max())
    gain = 0.5 / largest if largest > 0 else 1.0
    shown = [
        (_rgb(example.input), None, "input"),
        (_slice(example.before), "inferno", "explanation"),
        (_slice(example.after), "inferno", "explanation after the attack"),
        (_rgb(0.5 + gain * change), None, f"change, times {gain:.0f}"),
    ]
    return [
        Picture(_encoded(values, cmap), f"{title}: {name}", not _is_large(values))
        for values, cmap, name in shown
    ]


def bars_of(example: Example, names: Sequence[str] | None) -> list[Bar]:
    """The most relevant features of a row; empty where the explanation is not one of a row."""
    if example.before.ndim != 1:
        return []
    n = len(example.before)
    labels = (
        list(names) if names is not None and len(names) == n else [f"feature {i}" for i in range(n)]
    )
    both = np.maximum(example.before, example.after)
    largest = max(float(both.max()), 1e-12)
    change = (example.moved - example.input).reshape(-1, n).sum(0)
    return [
        Bar(labels[i], 100 * float(example.before[i]) / largest,
            100 * float(example.after[i]) / largest, float(change[i]))
        for i in np.argsort(-both)[:_BARS_AT_MOST]
    ]  # fmt: skip


def curve_points(
    summary: ExplanationSummary, settings: Any
) -> dict[str, list[tuple[float, float, float, float]]]:
    """Points of each curve: place in the SVG, size of the change and share of the top k."""
    eps = largest(settings)
    found: dict[str, list[tuple[float, float]]] = {
        kind: [(0.0, 1.0), *((f * eps, value.mean) for f, value in summary.left(kind))]
        for kind in ("attack", "noise")
    }
    certified = [
        (size, value.mean)
        for radius, value in summary.certified()
        if (size := enclosed(settings, radius)) is not None
    ]
    if certified:
        found["certified"] = certified
    return {
        kind: [(*_place(x / eps, y), x, y) for x, y in points if x <= eps * (1 + 1e-9)]
        for kind, points in found.items()
    }


def curves(report: Findings) -> Figure:
    """What is left under attack against the size of the change, a line for each explanation."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    eps = largest(report.settings)
    for name, found in report.explanations.items():
        points = [(0.0, 1.0), *((f * eps, value.mean) for f, value in found.left())]
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set(
        xlabel="largest change of each input", ylim=(0, 1.02),
        ylabel=f"share of the top {report.settings['k']} left",
        title="What an attack leaves of each explanation",
    )  # fmt: skip
    axes.legend(fontsize="small")
    return figure


def _place(x: float, y: float) -> tuple[float, float]:
    across, up = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    return round(MARGIN + x * across, 1), round(HEIGHT - MARGIN - y * up, 1)


def _slice(values: Array) -> Array:
    """Two dimensions of a map: the middle of those before."""
    while values.ndim > 2:
        values = values[len(values) // 2]
    return values


def _rgb(values: Array) -> Array:
    """(C, H, W), or a volume's middle slice, as (H, W, 3) between 0 and 1."""
    while values.ndim > 3:
        values = values[:, values.shape[1] // 2]
    if values.ndim == 2:
        values = values[None]
    if values.shape[0] not in (1, 3):
        values = values.mean(0, keepdims=True)
    low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
    shares = (values - low) / (high - low)
    return np.broadcast_to(shares, (3, *shares.shape[1:])).transpose(1, 2, 0)


def _encoded(values: Array, cmap: str | None) -> str:
    """A data URI: PNG, or JPEG where a PNG would make the report large."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"format": "png"}
    if _is_large(values):
        options = {"format": "jpeg", "pil_kwargs": {"quality": _JPEG_QUALITY}}
    if cmap is not None:
        options |= {"cmap": cmap, "vmin": 0.0, "vmax": max(1e-12, _bright(values))}
    imsave(buffer, np.ascontiguousarray(values, dtype=np.float64), **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{options['format']};base64,{data}"


def _is_large(values: Array) -> bool:
    return max(values.shape[:2]) > _LARGE


def _bright(values: Array) -> float:
    """What is drawn brightest: a few outliers would leave the rest dark."""
    return float(np.quantile(values, 0.98))
