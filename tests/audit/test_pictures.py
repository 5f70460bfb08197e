import base64
import io
import struct

import numpy as np
import pytest
from PIL import Image

from captum_robust.audit.pictures import (
    HEIGHT,
    MARGIN,
    WIDTH,
    bars_of,
    curve_points,
    curves,
    pictures_of,
)
from captum_robust.audit.results import Example


def example(shape, map_shape):
    generator = np.random.default_rng(0)
    values = generator.random(shape, dtype=np.float32)
    before, after = (generator.random(map_shape, dtype=np.float32) for _ in range(2))
    return Example("worst", 3, 0.5, values, np.clip(values + 0.02, 0, 1), before, after)


@pytest.mark.parametrize(
    ("shape", "map_shape"),
    [((1, 6, 5), (6, 5)), ((3, 6, 5), (6, 5)), ((4, 6, 5), (6, 5)), ((1, 3, 6, 5), (3, 6, 5))],
)
def test_an_image_or_a_volume_gives_four_pictures(shape, map_shape):
    found = pictures_of(example(shape, map_shape), "worst")
    assert len(found) == 4
    for picture in found:
        header, _, data = picture.source.partition(",")
        assert header == "data:image/png;base64"
        assert struct.unpack(">II", base64.b64decode(data)[16:24]) == (5, 6)
    assert "times 25" in found[-1].caption


def test_large_pictures_are_compressed():
    found = pictures_of(example((3, 80, 60), (80, 60)), "worst")
    for picture in found:
        header, _, data = picture.source.partition(",")
        assert header == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (60, 80)
        assert not picture.pixelated


def test_a_row_gives_bars_the_most_relevant_first():
    row = Example(
        "worst", 0, 0.5, np.zeros(3, np.float32), np.array([0, 0.2, 0], np.float32),
        np.array([0.1, 0.2, 0.7], np.float32), np.array([0.1, 0.8, 0.1], np.float32),
    )  # fmt: skip
    bars = bars_of(row, ["a", "b", "c"])
    assert [bar.feature for bar in bars] == ["b", "c", "a"]
    assert bars[0].after == pytest.approx(100)
    assert bars[1].before == pytest.approx(87.5)
    assert bars[0].change == pytest.approx(0.2)
    assert bars_of(row, ["too", "few"])[0].feature == "feature 1"
    assert not pictures_of(row, "worst")
    assert not bars_of(example((1, 6, 5), (6, 5)), None)


def test_curves_begin_whole_and_stay_in_their_frame(report):
    found = report.explanations["gradient"]
    points = curve_points(found, report.settings)
    assert set(points) == {"attack", "noise", "certified"}
    assert points["attack"][0][2:] == (0.0, 1.0)
    assert points["attack"][-1][2:] == (0.1, found.left()[-1][1].mean)
    # A Euclidean radius of 0.2 holds every change of at most 0.2 / 8 of 64 inputs.
    assert points["certified"][-1][2] == pytest.approx(0.2 / 8)
    # Where the number of inputs is not known, nothing is claimed.
    assert "certified" not in curve_points(found, {**report.settings, "n_inputs": None})
    for curve in points.values():
        for x, y, _, _ in curve:
            assert MARGIN <= x <= WIDTH - MARGIN
            assert MARGIN <= y <= HEIGHT - MARGIN


def test_a_figure_has_a_line_for_each_explanation(report):
    (axes,) = curves(report).axes
    assert [line.get_label() for line in axes.lines] == ["gradient"]
    assert report.figure().axes[0].get_xlabel()
