"""Changes that are amplified, and by how much; channels in other places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_robust.visualization import explanation_grid
from captum_robust.visualization._pictures import amplified, with_factor
from tests.helpers import rng


def rand(*shape, seed=0):
    return torch.rand(shape, generator=rng(seed))


def shown(axis):
    return torch.from_numpy(np.asarray(axis.images[-1].get_array(), dtype=np.float64))


@pytest.mark.parametrize("largest", [0.02, 8 / 255, 0.5, 3e-4, 0.7])
def test_the_factor_is_what_was_done_and_nothing_is_cut_off(largest):
    change = largest * (2 * rand(2, 3, 5, 4).double() - 1)
    change[0, 0, 0, 0] = -largest
    picture, factor = amplified(change)
    torch.testing.assert_close(picture, 0.5 + factor * change)
    assert 0 <= picture.min() <= 0.06  # two digits of the factor that would make it 0
    assert factor == float(f"{factor:.2g}")


def test_no_change_is_grey():
    picture, factor = amplified(torch.zeros(1, 1, 2, 2))
    assert (picture == 0.5).all()
    assert factor == 1
    assert with_factor(["a", "b"], 1, 2, 12.0) == ["a", "b (12 x)"]
    assert with_factor(None, 0, 2, 12.0) == ["(12 x)", ""]


@pytest.mark.parametrize("transpose", [False, True])
def test_a_change_is_a_column_whose_title_says_by_how_much(transpose):
    images, maps = rand(2, 1, 6, 6), rand(2, 6, 6, seed=1)
    change = torch.zeros(2, 1, 6, 6)
    change[0, 0, 2, 3] = 0.02
    titles = ["image", "change", "gradient"]
    options = {"row_titles": titles} if transpose else {"column_titles": titles}
    figure = explanation_grid(images, [maps], **options, change=change, transpose=transpose)
    axes = np.array(figure.axes[:6]).reshape((3, 2) if transpose else (2, 3))
    cells = axes.T if transpose else axes
    picture = shown(cells[0, 1])
    assert picture[2, 3] == pytest.approx(1.0)
    assert picture[0, 0] == 0.5
    torch.testing.assert_close(shown(cells[1, 0]), images[1, 0].double())
    text = axes[1, 0].get_ylabel() if transpose else axes[0, 1].get_title()
    assert text.replace("\n", " ") == "change (25 x)"


def test_a_change_needs_no_images_and_no_titles():
    figure = explanation_grid(None, [rand(1, 4, 4)], change=0.1 * rand(1, 3, 4, 4))
    assert figure.axes[0].get_title().endswith("x)")


def test_channels_may_be_last():
    images, maps, change = rand(2, 3, 6, 5), rand(2, 3, 6, 5, seed=1) - 0.5, rand(2, 3, 6, 5) / 9
    first = explanation_grid(images, [maps], change=change)
    last = explanation_grid(
        images.movedim(1, -1), [maps.movedim(1, -1)], change=change.movedim(1, -1), channel_dim=-1
    )
    for a, b in zip(first.axes[:6], last.axes[:6], strict=True):
        torch.testing.assert_close(shown(a), shown(b))


BAD = {
    "integers": ({"change": torch.ones(1, 1, 4, 4).long()}, "change must be .*attacked - images"),
    "shape": ({"change": torch.ones(1, 4, 4)}, r"change must be \(N, C, H, W\)"),
    "two channels": ({"change": torch.ones(1, 2, 4, 4)}, "change must be .* C = 1 or 3"),
    "nan": ({"change": torch.ones(1, 1, 4, 4) / 0}, "change contains NaN or Inf"),
    "size": ({"change": torch.ones(1, 1, 5, 4)}, "must agree in N, H and W"),
    "channel_dim": ({"channel_dim": 0}, "channel_dim must be 1, 2, 3, or -1"),
    "titles": (
        {"change": torch.ones(1, 1, 4, 4), "column_titles": ["a"]}, "column_titles must have 2"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        explanation_grid(None, [torch.ones(1, 4, 4)], **options)
