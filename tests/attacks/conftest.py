"""What the tests of the attacks share: a tiny network, images for it, and scores."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Saliency

from captum_robust.attacks import Explained
from captum_robust.metrics import relevance_map
from tests.attacks import networks


@pytest.fixture(scope="session")
def make_network():
    return networks.make_network


@pytest.fixture(scope="session")
def make_images():
    return networks.make_images


@pytest.fixture(scope="session")
def region():
    mask = torch.zeros(networks.SIZE, networks.SIZE, dtype=torch.bool)
    mask[1:3, 5:8] = True
    return mask


@pytest.fixture(scope="session")
def explained():
    """The true model's view of images, by way of Captum and without the attacks' own code."""

    def view(model, images, labels, explanation=None, **kwargs):
        explanation = Saliency(model) if explanation is None else explanation
        ready = images.detach().clone().requires_grad_()
        attributions = explanation.attribute(ready, target=labels, **kwargs).detach()
        return Explained(relevance_map(attributions), lambda: model(images).detach())

    return view
