"""Distributions of perturbations, and what they perturb in tests."""

from __future__ import annotations

import torch

from captum_robust import perturbations
from tests.helpers import normal


class Darker(perturbations.Perturbation):
    def shifts(self, points, n_samples, generator):
        share = torch.rand(len(points), n_samples, generator=generator)
        return tuple(
            share.view(*share.shape, *(1,) * (x.dim() - 1)).to(x) * x.unsqueeze(1)
            for x in points.inputs
        )


def images(n=2):
    return normal(n, 2, 3, 4), normal(n, 2, 3, seed=2)


def near(n=2):
    """Baselines, some of whose features are those of the inputs."""
    x, y = images(n)
    x, y = x + normal(n, 2, 3, 4, seed=3), y + normal(n, 2, 3, seed=4)
    x[:, 0, 1, 2] = images(n)[0][:, 0, 1, 2]
    return x, y


MASK = (torch.arange(24).view(1, 2, 3, 4) // 5, torch.tensor([[[1, 1, 40], [40, -7, 0]]]))
CASES = {
    "BaselineShift": (perturbations.BaselineShift(), {}),
    "CoordinateStep": (perturbations.CoordinateStep(0.3), {}),
    "FeatureRemoval": (perturbations.FeatureRemoval(), {}),
    "FeatureRemoval of groups": (perturbations.FeatureRemoval(), {"feature_mask": MASK}),
    "GaussianBaseline": (perturbations.GaussianBaseline((0.7, 0.2)), {}),
    "SeveralBaselines": (
        perturbations.SeveralBaselines((normal(3, 2, 3, 4, seed=5), normal(3, 2, 3))),
        {},
    ),
    "ShapleyRemoval": (perturbations.ShapleyRemoval(), {}),
    "ShapleyRemoval of groups": (perturbations.ShapleyRemoval(), {"feature_mask": MASK}),
    "SquareRemoval": (perturbations.SquareRemoval([1, 2], channel_dim=1), {}),
}

ON_IMAGES = {
    "BaselineShift": perturbations.BaselineShift(),
    "CoordinateStep": perturbations.CoordinateStep(1e-3),
    "FeatureRemoval": perturbations.FeatureRemoval(),
    "GaussianBaseline": perturbations.GaussianBaseline(0.3),
    "SeveralBaselines": perturbations.SeveralBaselines(normal(1, 2, 3, 3)),
    "ShapleyRemoval": perturbations.ShapleyRemoval(),
    "SquareRemoval": perturbations.SquareRemoval([1, 2]),
}
"""For images of two channels and 3 x 3 pixels."""
