"""Means of curves, with confidence bands."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from captum_robust.visualization import mean_curves
from tests.helpers import rng

X = torch.linspace(0, 1, 6)
CURVES = torch.rand(20, 6, generator=rng(), dtype=torch.float64)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_means_and_bands(confidence):
    figure = mean_curves(X, {"a": CURVES, "one": CURVES[:1]}, confidence=confidence)
    axis = figure.axes[0]
    first, one = axis.get_lines()
    assert first.get_ydata() == pytest.approx(CURVES.mean(0).numpy())
    assert one.get_ydata() == pytest.approx(CURVES[0].numpy())
    (band,) = axis.collections  # none for a single curve
    half = scipy.stats.norm.ppf(0.5 + confidence / 2) * CURVES.std(0) / math.sqrt(20)
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx((CURVES.mean(0) + half).max().item())
    assert corners[:, 1].min() == pytest.approx((CURVES.mean(0) - half).min().item())
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["a", "one"]


def test_titles_and_saving(tmp_path):
    figure = mean_curves(X, {"a": CURVES.float()}, x_title="eps", y_title="share")
    figure.savefig(tmp_path / "curves.png")
    assert figure.axes[0].get_xlabel() == "eps"
    assert figure.axes[0].get_ylabel() == "share"


BAD = {
    "tensor": ((X, CURVES), {}, TypeError, "curves must be a dictionary of tensors"),
    "list": ((X, {"a": [1.0]}), {}, TypeError, "curves must be a dictionary of tensors"),
    "none": ((X, {}), {}, ValueError, "curves is empty"),
    "x": ((CURVES, {"a": CURVES}), {}, ValueError, r"x must be a tensor \(T,\)"),
    "length": ((X[:3], {"a": CURVES}), {}, ValueError, r"curves\['a'\] must be \(N, 3\)"),
    "one curve": ((X, {"a": CURVES[0]}), {}, ValueError, r"curves\['a'\] must be \(N, 6\)"),
    "nan": ((X, {"a": CURVES / 0}), {}, ValueError, "a contains NaN or Inf"),
    "x nan": ((X / 0, {"a": CURVES}), {}, ValueError, "x contains NaN or Inf"),
    "confidence": ((X, {"a": CURVES}), {"confidence": 95}, ValueError, "confidence must be betw"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    arguments, options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        mean_curves(*arguments, **options)
