"""Shared keyword arguments: known names, kinds and ranges; each remedy works when followed."""

from __future__ import annotations

import pytest
import torch

from captum_robust.attacks import L2, GhorbaniTopK
from captum_robust.outputs import Binary

K = 9
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"output": Binary}, TypeError, r"output must be an object.*class Binary"),
        ({"output": "binary"}, TypeError, "output must be an object"),
        ({"output": 2}, TypeError, "output must be an object"),
        ({"input_range": 1}, ValueError, r"input_range must be \(smallest, largest\)"),
        ({"input_range": (0, 1, 2)}, ValueError, r"input_range must be \(smallest, largest\)"),
        ({"input_range": (1, 0)}, ValueError, "input_range must hold a smallest value below"),
        ({"input_range": (0, 0)}, ValueError, "input_range must hold a smallest value below"),
        ({"input_range": (0, NAN)}, ValueError, "input_range must hold a smallest value below"),
        ({"input_range": (torch.zeros(3), torch.zeros(3))}, ValueError, "input_range must hold"),
        ({"channel_dim": 0}, ValueError, "channel_dim must be a dimension other than the batch"),
        ({"channel_dim": "C"}, ValueError, "channel_dim must be a dimension"),
        ({"levels": 1}, ValueError, "levels must be at least 2"),
        ({"levels": 2.5}, TypeError, "levels must be a whole number"),
        ({"levels": 256, "input_range": None}, ValueError, r"levels needs input_range=\(0, 1\)"),
        ({"levels": 256, "input_range": (-1, 1)}, ValueError, r"levels needs input_range"),
        ({"levels": 256, "eps": 0.5 / 255}, ValueError, "eps must be at least 1/255"),
        ({"eps": 1.5}, ValueError, r"eps must be at most 1.*input_range"),
        ({"eps": 3, "input_range": (-1, 1)}, ValueError, "eps must be at most 2"),
        ({"eps": torch.tensor([-1.0])}, ValueError, "eps must be finite and not negative"),
        ({"eps": torch.tensor([0.0])}, ValueError, "eps must be finite and not negative"),
        ({"eps": torch.tensor([NAN])}, ValueError, "eps must be finite"),
        ({"eps": torch.tensor([INF])}, ValueError, "eps must be finite"),
        ({"eps": torch.zeros(0)}, ValueError, "eps must be finite"),
        ({"eps": torch.ones(3, dtype=torch.long)}, TypeError, "eps must hold floating-point"),
        ({"eps": torch.ones(1), "ball": L2()}, ValueError, "eps must be one number for L2"),
        ({"alpha": torch.tensor([-1.0])}, ValueError, "alpha must be finite and not negative"),
        ({"beta": True - 1.0}, ValueError, "beta must be positive"),
        ({"explanation_kwargs": [("n_steps", 3)]}, TypeError, "explanation_kwargs must be a dict"),
        ({"explanation_kwargs": {"additional_forward_args": 1}}, ValueError, "further arguments"),
        ({"generator": 7}, TypeError, "generator must be a torch.Generator"),
        ({"restart": 3}, TypeError, r"restart is not an argument.*restarts"),
        ({"epsilon": 3}, TypeError, r"epsilon is not an argument"),
    ],
    ids=str,
)
def test_settings_are_refused(settings, error, message, make_network):
    with pytest.raises(error, match=message):
        GhorbaniTopK(make_network(), k=K, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": torch.ones(7) / 10}, r"eps must be a number or broadcast.*\(1, 8, 8\)"),
        ({"eps": torch.ones(3, 1, 8, 8) / 10}, r"eps must be a number or broadcast"),
        ({"alpha": torch.ones(3) / 10}, r"alpha must be a number or broadcast"),
        ({"input_range": (torch.zeros(3), torch.ones(3))}, r"input_range must be a number"),
        ({"channel_dim": 4}, r"channel_dim must be a dimension of the inputs"),
        ({"channel_dim": -4}, r"channel_dim must be a dimension of the inputs"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_inputs(settings, message, make_network, make_images):
    with pytest.raises(ValueError, match=message):
        GhorbaniTopK(make_network(), k=K, steps=1, **settings)(make_images())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((torch.rand(2, 1, 8, 8), torch.rand(2, 3)), "got 2 of them.*additional_forward_args"),
        ([torch.rand(2, 1, 8, 8)], "additional_forward_args"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.long), r"float\(\) / 255.*embedding"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.bool), "floating-point"),
        (torch.zeros(2, 8, 8), r"channel_dim.*unsqueeze\(1\)"),
        (torch.full((2, 1, 8, 8), 2.0), r"images must be in \[0, 1\], got values from 2 to 2"),
        (torch.full((2, 1, 8, 8), NAN), "images has NaN"),
        (torch.zeros(0, 1, 8, 8), "images is empty"),
    ],
    ids=lambda v: v if isinstance(v, str) else "images",
)
def test_images_are_refused_with_the_way_on(images, message, make_network):
    with pytest.raises(ValueError, match=message):
        GhorbaniTopK(make_network().float(), k=K, steps=1)(images)


def test_infinite_inputs_without_a_range(make_network, make_images):
    images = make_images()
    images[0, 0, 0, 0] = INF
    with pytest.raises(ValueError, match="images has Inf"):
        GhorbaniTopK(make_network(), k=K, steps=1, input_range=None)(images)


def test_a_number_does_not_replace_a_radius_for_each_feature(make_network, make_images):
    eps = torch.full((1, 8, 8), 0.1)
    eps[0, 0] = 0
    attack = GhorbaniTopK(make_network(), eps=eps, k=K, steps=2)
    with pytest.raises(ValueError, match="eps must be a tensor in this call"):
        attack(make_images(), eps=0.2)
    moved = attack(make_images(), eps=2 * eps)  # the advice, followed
    assert torch.equal(moved[:, :, 0], make_images()[:, :, 0])


def test_saving_counts_classes_or_nothing(make_network, make_images, tmp_path, capsys):
    from torch.utils.data import DataLoader, TensorDataset

    from captum_robust.outputs import MultiLabel

    attack = GhorbaniTopK(make_network(), None, 0.1, 0.03, 4, k=K, output=MultiLabel())
    loader = DataLoader(TensorDataset(make_images(), torch.zeros(3, dtype=torch.long)), 3)
    with pytest.raises(ValueError, match=r"MultiLabel.*save\(\.\.\., verbose=False\)"):
        attack.save(loader, tmp_path / "a.pt")
    attack.save(loader, tmp_path / "a.pt", verbose=False)  # the advice, followed
    with pytest.raises(ValueError, match="save_type must be"):
        attack.save(loader, tmp_path / "a.pt", verbose=False, save_type="png")
    assert (tmp_path / "a.pt").is_file()
    capsys.readouterr()
