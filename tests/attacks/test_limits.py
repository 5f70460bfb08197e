"""Candidates respect the ball, the range of the inputs and the levels of a file."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from captum_robust.attacks import L2, GhorbaniTopK, LInf, RandomSign
from captum_robust.attacks._limits import Limits, box_for, on_grid
from tests.helpers import rng

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")


def bytes_of(x):
    return (x.double() * 255).round()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("levels_of_eps", [1, 2, 8, 30])
def test_candidates_on_the_grid_use_all_of_a_radius_of_whole_levels(dtype, levels_of_eps):
    center = on_grid(torch.rand(4, 3, 8, 8, generator=rng(), dtype=dtype), 256)
    limits = Limits(LInf(), levels_of_eps / 255, (0.0, 1.0), 256)
    edge = limits.project(center + torch.randn(center.shape, generator=rng(1)).sign(), center)
    found = limits.candidate(edge, center)
    assert torch.equal(found, bytes_of(found).to(dtype) / 255)
    moved = (bytes_of(found) - bytes_of(center)).abs()
    inside = (center > 0.2) & (center < 0.8)
    assert moved.max() == levels_of_eps
    assert (moved[inside] == levels_of_eps).all()


@pytest.mark.parametrize("ball", [LInf(), L2()], ids=repr)
@pytest.mark.parametrize("eps", [0.02, 0.1, 0.7])
def test_candidates_on_the_grid_stay_in_the_ball(ball, eps):
    center = on_grid(torch.rand(4, 1, 9, 9, generator=rng()), 256)
    limits = Limits(ball, eps, (0.0, 1.0), 256)
    for seed in range(5):
        x = limits.project(center + 0.3 * torch.randn(center.shape, generator=rng(seed)), center)
        found = limits.candidate(x, center)
        change = (found.double() - center.double()).flatten(1)
        size = change.abs().amax(1) if isinstance(ball, LInf) else change.norm(dim=1)
        assert (size <= eps + 1e-7).all()
        assert found.min() >= 0
        assert found.max() <= 1


def test_a_box_is_rounded_inwards():
    images = torch.zeros(2, 3, dtype=torch.float16)
    low, high = box_for((0.1, 0.3), images)
    assert low.double() >= 0.1
    assert high.double() <= 0.3
    assert box_for((0, 1), images) == (0.0, 1.0)
    assert box_for(None, images) == (-torch.inf, torch.inf)


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("normalised", [False, True])
def test_what_is_saved_in_8_bits_keeps_its_promises(
    restarts, normalised, make_network, make_images, tmp_path, capsys
):
    model = make_network(3).float()
    images = on_grid(make_images(12, channels=3).float(), 256)
    labels = model(images).argmax(1)
    eps = 20 / 255
    attack = GhorbaniTopK(
        model, eps=eps, alpha=eps / 4, steps=8, k=9, restarts=restarts, generator=rng()
    )
    given = images
    if normalised:
        attack.set_normalization_used([0.45, 0.4, 0.5], [0.22, 0.23, 0.24])
        given = attack.normalize(images)
        model_of = lambda x: model(attack.normalize(x))  # noqa: E731
        labels = model_of(images).argmax(1)
    else:
        model_of = model
    path = tmp_path / "a.pt"
    attack.save(
        DataLoader(TensorDataset(given, labels), 6), path, verbose=False, save_type="int",
        save_clean_inputs=True,
    )  # fmt: skip
    saved = torch.load(path, weights_only=True)
    assert saved["adv_inputs"].dtype == torch.uint8
    assert torch.equal(saved["clean_inputs"], bytes_of(images).to(torch.uint8))
    loaded = torch.cat([b[0] for b in attack.load(path, batch_size=6, shuffle=False)])
    assert (loaded - images).abs().max() <= eps + 1e-7
    assert torch.equal(model_of(loaded).argmax(1), labels)
    assert (loaded != images).flatten(1).any(1).any()
    capsys.readouterr()


def test_images_that_8_bits_cannot_hold_are_refused(make_network, make_images):
    images = make_images()
    attack = GhorbaniTopK(make_network(), eps=0.1, alpha=0.03, steps=3, k=9, levels=256)
    with pytest.raises(ValueError, match=r"images must be multiples of 1/255.*round"):
        attack(images)
    rounded = (images * 255).round() / 255  # the advice, followed
    assert (bytes_of(attack(rounded)) / 255 - attack(rounded)).abs().max() < 1e-12


def test_rounding_is_to_the_nearest():
    images = torch.tensor([[0.0, 0.99999994, 100.4 / 255, 100.6 / 255]])
    assert RandomSign.to_type(images, "int").tolist() == [[0, 255, 100, 101]]
    assert RandomSign.to_type(torch.tensor([255, 51], dtype=torch.uint8), "float").tolist() == (
        pytest.approx([1.0, 0.2])
    )
