"""The table of pictures: what is in each cell, how it is laid out, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from captum_robust.metrics import relevance_map
from captum_robust.visualization import explanation_grid

N, H, W = 2, 12, 10


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cells(figure, n_rows, n_columns):
    return np.array(figure.axes[: n_rows * n_columns]).reshape(n_rows, n_columns)


def shown(axis):
    """Numbers of the topmost picture in a cell."""
    return torch.from_numpy(np.asarray(axis.images[-1].get_array(), dtype=np.float64))


def literal_scale(numbers, outlier_perc=2):
    """Divide by the smallest magnitude up to which all but ``outlier_perc`` % of the sum lies."""
    magnitudes = sorted(numbers.abs().flatten().tolist())
    total, so_far = math.fsum(magnitudes), 0.0
    for magnitude in magnitudes:
        so_far += magnitude
        if so_far >= (1 - outlier_perc / 100) * total:
            break
    return (numbers / magnitude).clamp(-1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_cells_hold_images_and_scaled_maps(channels):
    images = rand(N, channels, H, W)
    first, second = randn(N, channels, H, W, seed=1), randn(N, channels, H, W, seed=2)
    grid = cells(explanation_grid(images, [first, second]), N, 3)
    for i in range(N):
        picture = shown(grid[i, 0])
        torch.testing.assert_close(
            picture, images[i].double().movedim(0, -1).reshape(picture.shape)
        )
        assert grid[i, 0].images[0].get_clim() == (0, 1)
        for axis, explanation in zip(grid[i, 1:], (first[i], second[i]), strict=True):
            expected = literal_scale(explanation.double().abs().sum(0))
            torch.testing.assert_close(shown(axis), expected)
            assert axis.images[0].get_clim() == (0, 1)


@pytest.mark.parametrize(
    ("sign", "prepare", "limits"),
    [
        ("absolute_value", lambda a: a.abs().sum(0), (0, 1)),
        ("positive", lambda a: a.sum(0).clamp(min=0), (0, 1)),
        ("negative", lambda a: -a.sum(0).clamp(max=0), (0, 1)),
        ("all", lambda a: a.sum(0), (-1, 1)),
    ],
)
@pytest.mark.parametrize("outlier_perc", [0, 2, 30])
def test_signs_and_outliers(sign, prepare, limits, outlier_perc):
    explanations = randn(1, 3, H, W)
    figure = explanation_grid(None, [explanations], sign=sign, outlier_perc=outlier_perc)
    (axis, bar) = figure.axes
    expected = literal_scale(prepare(explanations[0].double()), outlier_perc)
    torch.testing.assert_close(shown(axis), expected)
    assert axis.images[0].get_clim() == limits
    assert axis.images[0].get_cmap().name == bar.collections[-1].get_cmap().name
    assert bar.get_ylim() == limits


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_does_not_count(scale):
    maps = relevance_map(randn(N, 3, H, W, seed=3))
    expected = cells(explanation_grid(None, [maps]), N, 1)
    actual = cells(explanation_grid(None, [scale * maps]), N, 1)
    for a, b in zip(actual.flat, expected.flat, strict=True):
        torch.testing.assert_close(shown(a), shown(b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sign", ["absolute_value", "positive", "negative", "all"])
@pytest.mark.parametrize("alpha_overlay", [None, 0.5])
def test_all_zero_explanation_is_shown_as_zero(sign, alpha_overlay):
    zeros = torch.zeros(1, 3, H, W)
    figure = explanation_grid(rand(1, 3, H, W), [zeros], sign=sign, alpha_overlay=alpha_overlay)
    axis = figure.axes[1]
    assert torch.equal(shown(axis), torch.zeros(H, W, dtype=torch.float64))
    assert axis.images[0].get_clim() == ((-1, 1) if sign == "all" else (0, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay_lies_on_the_grey_image(channels):
    images, explanations = rand(N, channels, H, W), randn(N, 3, H, W)
    grid = cells(explanation_grid(images, [explanations], alpha_overlay=0.25), N, 2)
    for i in range(N):
        below, above = grid[i, 1].images
        grey = torch.from_numpy(np.asarray(below.get_array()))
        torch.testing.assert_close(grey / 255, images[i].double().mean(0), rtol=0, atol=1 / 255)
        assert below.get_cmap().name == "gray"
        assert above.get_alpha() == 0.25


def test_texts():
    figure = explanation_grid(
        rand(N, 1, H, W),
        [randn(N, 1, H, W)],
        ["clean", "moved by an attack on the centre of mass"],
        ["image", "gradient of the logit of the predicted class"],
        captions=[["a", "b"], ["", "d"]],
    )
    grid = cells(figure, N, 2)
    assert [axis.get_title() for axis in grid[1]] == ["", ""]
    assert grid[0, 0].get_title() == "image"
    assert grid[0, 1].get_title().replace("\n", " ").startswith("gradient of the logit")
    assert "\n" in grid[0, 1].get_title()
    assert grid[0, 0].get_ylabel() == "clean"
    assert "\n" in grid[1, 0].get_ylabel()
    assert [axis.get_xlabel() for axis in grid.flat] == ["a", "b", "", "d"]


def test_transposed_examples_stand_side_by_side():
    images, first, second = (
        rand(N + 1, 1, H, W),
        randn(N + 1, 1, H, W),
        randn(N + 1, 1, H, W, seed=1),
    )
    upright = explanation_grid(images, [first, second])
    lying = explanation_grid(
        images,
        [first, second],
        ["image", "first", "second"],
        list("abc"),
        captions=[list("123")] * 3,
        transpose=True,
    )
    for across, down in zip(cells(lying, 3, N + 1).T, cells(upright, N + 1, 3), strict=True):
        for axis, other in zip(across, down, strict=True):
            torch.testing.assert_close(shown(axis), shown(other))
    assert [axis.get_ylabel() for axis in cells(lying, 3, N + 1)[:, 0]] == [
        "image",
        "first",
        "second",
    ]
    assert [axis.get_title() for axis in cells(lying, 3, N + 1)[0]] == list("abc")
    with pytest.raises(ValueError, match="row_titles must have 2"):
        explanation_grid(images, [first], ["a", "b", "c"], transpose=True)


@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (3, 3, 64, 64), (2, 3, 20, 60), (2, 1, 60, 20)])
@pytest.mark.parametrize("n_maps", [1, 4])
def test_layout_is_tight_and_nothing_overlaps(shape, n_maps):
    n = shape[0]
    figure = explanation_grid(
        rand(*shape),
        [randn(*shape)] * n_maps,
        ["GhorbaniMassCenter", "an attack with a rather long name", "c"][:n],
        ["image", "InputXGradient smoothed by a kernel", "two", "three", "four"][: n_maps + 1],
        captions=[["ankle boot", *["Spearman 0.42, top-50 0.25"] * n_maps]] * n,
    )
    figure.draw_without_rendering()
    grid = cells(figure, n, n_maps + 1)
    pictures = [axis.get_window_extent() for axis in figure.axes]
    texts = [
        text.get_window_extent()
        for axis in grid.flat
        for text in (axis.title, axis.xaxis.label, axis.yaxis.label)
        if text.get_text()
    ]
    boxes = pictures + texts
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1
        for other in boxes[:i]:
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(width, height) < 1  # pixel
    used = figure.get_tightbbox()
    assert used.width > 0.85 * figure.get_size_inches()[0]
    assert used.height > 0.85 * figure.get_size_inches()[1]


def test_pyplot_is_left_alone_and_the_figure_can_be_saved(tmp_path):
    before = plt.get_fignums()
    figure = explanation_grid(rand(1, 3, 8, 8), [randn(1, 3, 8, 8)])
    assert plt.get_fignums() == before
    figure.savefig(tmp_path / "grid.png", dpi=50)
    pixels = plt.imread(tmp_path / "grid.png")
    assert pixels.std() > 0.1


def test_draws_in_a_given_figure():
    figure = plt.figure()
    try:
        assert explanation_grid(None, [randn(2, 1, 8, 8)], figure=figure) is figure
        assert len(figure.axes) == 3
        default = explanation_grid(None, [randn(2, 1, 8, 8)])
        assert isinstance(default, Figure)
        assert figure.get_size_inches().tolist() == default.get_size_inches().tolist()
    finally:
        plt.close(figure)


def test_arguments_are_left_alone():
    images = rand(1, 1, 8, 8).requires_grad_()
    explanations = randn(1, 1, 8, 8).requires_grad_()
    before = images.detach().clone(), explanations.detach().clone()
    explanation_grid(images, [explanations, explanations.half(), explanations.bfloat16()])
    assert images.requires_grad
    assert torch.equal(images, before[0])
    assert torch.equal(explanations, before[1])


GOOD = randn(N, 3, H, W)


@pytest.mark.parametrize(
    ("images", "attributions", "options", "match"),
    [
        (None, GOOD, {}, r"^attributions must be a sequence.*\[attributions\]"),
        (None, [], {}, "^attributions must be a sequence"),
        (None, [GOOD, GOOD.long()], {}, r"^attributions\[1\] must be a floating-point"),
        (None, [GOOD, GOOD.numpy()], {}, r"^attributions\[1\] must be a floating-point"),
        (None, [GOOD[0, 0]], {}, r"^attributions\[0\] must be explanations.*\(12, 10\)"),
        (None, [GOOD[:0]], {}, r"^attributions\[0\] must be explanations"),
        (None, [GOOD / 0], {}, r"^attributions\[0\] contains NaN or Inf"),
        (None, [GOOD, GOOD[..., :5]], {}, "^attributions and images must agree.*interpolate"),
        (rand(N, 3, H, W)[:1], [GOOD], {}, "^attributions and images must agree"),
        (GOOD, [GOOD], {}, r"^images must be in \[0, 1\]"),
        (rand(N, 2, H, W), [GOOD], {}, "^images must be .* C = 1 or 3"),
        (rand(N, H, W), [GOOD], {}, r"^images must be \(N, C, H, W\)"),
        (None, [GOOD], {"row_titles": ["a"]}, "^row_titles must have 2 elements, got 1"),
        (None, [GOOD], {"column_titles": ["a", "b"]}, "^column_titles must have 1 elements, got 2"),
        (None, [GOOD], {"captions": [["a"]]}, "^captions must have 2 elements, got 1"),
        (None, [GOOD], {"captions": [["a"], []]}, r"^captions\[1\] must have 1 texts, got 0"),
        (None, [GOOD], {"sign": "both"}, "^sign must be one of absolute_value, .*got 'both'"),
        (None, [GOOD], {"outlier_perc": 100}, "^outlier_perc must be .*below 100, got 100"),
        (None, [GOOD], {"outlier_perc": -1}, "^outlier_perc must be"),
        (None, [GOOD], {"alpha_overlay": 0.5}, "^alpha_overlay must be .* needs images"),
        (rand(N, 3, H, W), [GOOD], {"alpha_overlay": 1.5}, "^alpha_overlay must be from 0 to 1"),
    ],
)
def test_bad_input_is_named(images, attributions, options, match):
    with pytest.raises(ValueError, match=match):
        explanation_grid(images, attributions, **options)
