"""Warnings name the line of the user, not one of a library."""

from __future__ import annotations

import warnings

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_robust.attacks import GhorbaniTopK
from captum_robust.attr import BetaSmoothing, GuidedBackprop, differentiable

MODEL, IMAGES = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2)


@pytest.mark.parametrize(
    "warned",
    [
        lambda: BetaSmoothing(Saliency(MODEL)).attribute(IMAGES, target=0),
        lambda: GuidedBackprop(MODEL).attribute(IMAGES, target=0),
        lambda: GuidedBackprop(MODEL).attribute_with_graph(IMAGES.requires_grad_(), target=0),
        lambda: differentiable(GuidedBackprop(MODEL))(IMAGES.requires_grad_(), target=0),
        lambda: GhorbaniTopK(MODEL, steps=1, k=2)(IMAGES.detach()),
    ],
)
def test_however_deep_the_cause_it_is_the_line_of_the_user(warned):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warned()
    assert {w.filename for w in seen} == {__file__}
    assert {w.lineno for w in seen} <= {warned.__code__.co_firstlineno}
