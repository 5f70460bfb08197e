"""Groups with gaps, of each example and across inputs."""

from __future__ import annotations

import torch

from captum_robust.perturbations import (
    FeatureRemoval,
    Points,
)
from tests.helpers import rng


def test_groups_with_gaps_and_masks_of_each_example():
    mask = torch.tensor([[5, 5, -3, 70], [70, -3, -3, -3]])
    points = Points.of(torch.ones(2, 4), feature_mask=mask)
    (drawn,) = FeatureRemoval().shifts(points, 900, rng())
    for i in range(2):
        seen = {tuple(z) for z in drawn[i].int().tolist()}
        want = {tuple((mask[i] == k).int().tolist()) for k in (5, -3, 70)}
        assert seen == want
    moment = FeatureRemoval().second_moment(points)
    same = mask.unsqueeze(1) == mask.unsqueeze(2)
    torch.testing.assert_close(moment, same.double() / 3)


def test_a_group_across_inputs():
    points = Points.of(
        (torch.ones(1, 2), torch.ones(1, 2)),
        feature_mask=(torch.tensor([[0, 1]]), torch.tensor([[1, 2]])),
    )
    drawn = torch.cat(FeatureRemoval().shifts(points, 200, rng()), dim=-1)[0]
    assert {tuple(z) for z in drawn.int().tolist()} == {(1, 0, 0, 0), (0, 1, 1, 0), (0, 0, 0, 1)}
