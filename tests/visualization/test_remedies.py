"""What a message of a figure advises works when it is followed."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerAttribution

from captum_robust.visualization import explanation_bars, explanation_grid
from tests.helpers import rng

IMAGES = torch.rand(2, 3, 8, 8, generator=rng())
MAPS = torch.rand(2, 4, 4, generator=rng(1))
ROWS = torch.randn(3, 5, generator=rng(2))

FOLLOWED = {
    "one explanation: a list": (
        lambda: explanation_grid(IMAGES, IMAGES), r"\[attributions\]",
        lambda: explanation_grid(IMAGES, [IMAGES]),
    ),
    "integers: float()": (
        lambda: explanation_grid(IMAGES, [(9 * IMAGES).long()]), r"convert it with \.float\(\)",
        lambda: explanation_grid(IMAGES, [(9 * IMAGES).long().float()]),
    ),
    "pixels of bytes": (
        lambda: explanation_grid((255 * IMAGES).byte(), [IMAGES]), r"images\.float\(\) / 255",
        lambda: explanation_grid((255 * IMAGES).byte().float() / 255, [IMAGES]),
    ),
    "normalised images": (
        lambda: explanation_grid((IMAGES - 0.5) / 0.25, [IMAGES]), r"images \* std \+ mean",
        lambda: explanation_grid((IMAGES - 0.5) / 0.25 * 0.25 + 0.5, [IMAGES]),
    ),
    "maps of a layer: interpolate": (
        lambda: explanation_grid(IMAGES, [MAPS]), r"LayerAttribution\.interpolate",
        lambda: explanation_grid(
            IMAGES, [LayerAttribution.interpolate(MAPS.unsqueeze(1), (8, 8))]
        ),
    ),
    "integers of a row": (
        lambda: explanation_bars(ROWS[0].long()), r"use \.float\(\)",
        lambda: explanation_bars(ROWS[0].long().float()),
    ),
    "several rows: one": (
        lambda: explanation_bars(ROWS), r"before\[i\]", lambda: explanation_bars(ROWS[1]),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "remedy", "right"), FOLLOWED.values(), ids=FOLLOWED)
def test_a_remedy_works_when_it_is_followed(wrong, remedy, right):
    with pytest.raises((TypeError, ValueError), match=remedy):
        wrong()
    assert right().axes
