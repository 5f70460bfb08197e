"""The attacks are attacks of TorchAttacks: constructor, call, normalisation, save, repr."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
import torchattacks
from torch.utils.data import DataLoader, TensorDataset
from torchattacks.attack import Attack

from captum_robust import attacks
from tests.attacks.networks import MAP, REGION, draw_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:The attack failed for"),
    pytest.mark.filterwarnings("ignore:model is in training mode"),
]

MEAN, STD = [0.25, 0.5, 0.125], [0.5, 0.25, 0.5]


def build_all(model):
    return [
        attacks.RandomSign(model, eps=0.05),
        attacks.GhorbaniTopK(model, eps=0.05, steps=3, k=9),
        attacks.GhorbaniMassCenter(model, eps=0.05, steps=3),
        attacks.GhorbaniTarget(model, eps=0.05, steps=3, region=REGION),
        attacks.Dombrowski(model, eps=0.05, steps=3),
        attacks.AutoExplanationAttack(
            model, eps=0.05, budget=3, measure=attacks.TopKIntersection(9)
        ),
        attacks.BlackBoxExplanationAttack(
            model, eps=0.05, queries=3, measure=attacks.TopKIntersection(9)
        ),
    ]


@pytest.fixture(scope="module")
def model(make_network):
    return make_network(3)


@pytest.fixture(scope="module")
def images(make_images):
    return make_images(6, channels=3)


@pytest.fixture
def attack(model):
    return attacks.GhorbaniTopK(model, eps=0.05, alpha=0.02, steps=3, k=9)


def test_every_public_attack_is_one(model):
    public = [getattr(attacks, name) for name in attacks.__all__]
    classes = {c for c in public if inspect.isclass(c) and issubclass(c, attacks.ExplanationAttack)}
    assert {type(a) for a in build_all(model)} == classes - {attacks.ExplanationAttack}
    assert all(issubclass(c, Attack) for c in classes)


@pytest.mark.parametrize(
    "kind",
    [attacks.GhorbaniTopK, attacks.GhorbaniMassCenter, attacks.GhorbaniTarget, attacks.Dombrowski],
    ids=lambda k: k.__name__,
)
def test_order_of_the_constructor(kind, model):
    further = {"region": REGION} if kind is attacks.GhorbaniTarget else {}
    attack = kind(model, None, 0.03, 0.007, 11, **further)
    assert (attack.eps, attack.alpha, attack.steps) == (0.03, 0.007, 11)
    by_name = kind(model, eps=0.03, alpha=0.007, steps=11, **further)
    assert repr(by_name) == repr(attack)
    assert (
        attacks.RandomSign(model, None, 0.03, 11).eps,
        attacks.RandomSign(model, None, 0.03, 11).steps,
    ) == (
        0.03,
        11,
    )


def test_repr_names_the_parameters_and_prints_no_tensor(model, images):
    for attack in build_all(model):
        further = (MAP,) if isinstance(attack, attacks.Dombrowski) else ()
        attack(images, None, *further)
        text = repr(attack)
        assert text.startswith(f"{type(attack).__name__}(")
        for part in ("eps=0.05", "steps=", "ball=LInf()", "explanation=Saliency", "beta="):
            assert part in text
        assert "tensor" not in text
        assert "\n" not in text
    assert "normalization_used=False" in repr(attack)
    attack.set_normalization_used(MEAN, STD)
    assert "normalization_used=True" in repr(attack)


def test_images_may_be_named(attack, images):
    labels = torch.arange(6) % 4
    assert torch.equal(attack(images=images, labels=labels), attack(images, labels))


def test_normalisation_of_three_channels(attack, model, images):
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))

    class Whole(torch.nn.Module):
        def forward(self, x):
            return model((x - mean) / std)

    expected = attacks.GhorbaniTopK(Whole(), eps=0.05, alpha=0.02, steps=3, k=9)(images)
    normalised = (images - mean) / std
    attack.set_normalization_used(MEAN, STD)
    manipulated = attack(normalised)
    torch.testing.assert_close(manipulated * std + mean, expected, rtol=0, atol=1e-9)
    # Black and white pixels are rounded out of [0, 1] when their normalisation is undone.
    single = attacks.GhorbaniTopK(copy.deepcopy(model).float(), eps=0.05, steps=3, k=9)
    single.set_normalization_used([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    mean, std = mean.view(3, 1, 1), std.view(3, 1, 1)
    manipulated = single((images.float() - mean) / std)
    assert manipulated.dtype == torch.float32
    assert (manipulated * std + mean - images.float()).abs().max() <= 0.05 + 1e-6
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\]"):
        single((images.float() - mean) / std * 1.1)


def test_black_and_white_that_undoing_a_normalisation_rounds_out_of_range(make_network):
    mean, std = 0.1, 0.34
    images = torch.zeros(2, 1, 8, 8)
    images[:, :, 4:] = 1
    normalised = (images - mean) / std
    attack = attacks.GhorbaniTopK(make_network().float(), eps=0.05, steps=2, k=9)
    attack.set_normalization_used([mean], [std])
    undone = attack.inverse_normalize(normalised)
    assert undone.min() < 0  # else this test has nothing to show
    assert (attack(normalised) * std + mean - images).abs().max() <= 0.05 + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", [list, np.array], ids=["list", "numpy"])
def test_normalisation_keeps_the_dtype(dtype, kind, make_network, make_images):
    """The mean is float32 from a list and float64 from numpy; the network is neither's."""
    attack = attacks.GhorbaniTopK(make_network().to(dtype), eps=0.1, steps=2, k=9)
    attack.set_normalization_used(kind([0.45]), kind([0.23]))
    normalised = ((make_images() - 0.45) / 0.23).to(dtype)
    manipulated = attack(normalised)
    assert manipulated.dtype == dtype
    assert manipulated.isfinite().all()
    assert (manipulated != normalised).any()


def test_a_function_around_the_model_is_not_reached_by_a_normalisation(model, images):
    """It would explain the model on images that were not normalised."""
    from captum.attr import Saliency

    attack = attacks.GhorbaniTopK(model, Saliency(lambda x: model(x)), eps=0.05, steps=2, k=9)
    attack(images)
    attack.set_normalization_used(MEAN, STD)
    with pytest.raises(ValueError, match="explanation: its forward_func is not the model"):
        attack(attack.normalize(images).double())


def test_parallel_attacks_do_not_share_a_normalisation(attack, images):
    other = attack._with_eps(0.1)
    other.set_normalization_used(MEAN, STD)
    assert attack._normalization_applied is None
    assert attack(images).shape == images.shape


def test_save_and_load(attack, model, images, tmp_path, capsys):
    labels = model(images).argmax(1)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    path = tmp_path / "attacked.pt"
    attack.save(loader, save_path=path, verbose=True, save_clean_inputs=True)
    assert "Robust accuracy: 100.00 %" in capsys.readouterr().out
    saved = torch.load(path, weights_only=True)
    # Of two batches, each on its own: the attack of an image does not depend on the others.
    torch.testing.assert_close(saved["adv_inputs"], attack(images, labels), rtol=0, atol=1e-9)
    assert torch.equal(saved["labels"], labels)
    assert torch.equal(saved["clean_inputs"], images)
    batches = list(attacks.GhorbaniTopK.load(path, batch_size=6, shuffle=False))
    assert torch.equal(batches[0][0], saved["adv_inputs"])


@pytest.mark.parametrize("verbose", [False, True])
def test_save_predictions_with_and_without_statistics(attack, model, images, tmp_path, verbose):
    """Without statistics TorchAttacks fails here; the predictions are saved all the same."""
    labels = model(images).argmax(1)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    path = tmp_path / "attacked.pt"
    result = attack.save(loader, path, verbose=verbose, save_predictions=True)
    assert result is None
    assert torch.equal(torch.load(path, weights_only=True)["preds"], labels)
    robust_accuracy, _, _ = attack.save(loader, verbose=False, return_verbose=True)
    assert robust_accuracy == 100


def test_saving_keeps_a_frozen_layer_frozen(make_images, tmp_path):
    """TorchAttacks calls ``model.train()``, which would thaw it."""
    layers = torch.nn.Sequential(
        torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.ReLU(), torch.nn.Linear(64, 4)
    ).double()
    draw_weights(layers, seed=0).train()
    layers[0].eval()
    images = make_images(4)
    attack = attacks.GhorbaniTopK(layers, steps=2, k=9)
    loader = DataLoader(TensorDataset(images, torch.zeros(4, dtype=torch.long)), batch_size=2)
    flags = [m.training for m in layers.modules()]
    mean = layers[0].running_mean.clone()
    attack.save(loader, save_path=tmp_path / "a.pt", verbose=False, save_predictions=True)
    assert [m.training for m in layers.modules()] == flags
    attack.get_output_with_eval_nograd(images)
    assert [m.training for m in layers.modules()] == flags
    assert torch.equal(layers[0].running_mean, mean)


def test_inside_multi_attack(model, images):
    first = attacks.GhorbaniTopK(model, eps=0.05, alpha=0.02, steps=3, k=9)
    both = torchattacks.MultiAttack([first, attacks.RandomSign(model, eps=0.05)])
    predicted = model(images).argmax(1)
    # It looks for a changed label and keeps the images whose label no attack changed.
    assert torch.equal(both(images, predicted), images)
    others = (predicted + 1) % 4
    assert torch.equal(both(images, others), first(images, others))
    normalised = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    both.set_normalization_used(MEAN, STD)
    assert first._normalization_applied is True
    expected = attacks.GhorbaniTopK(model, eps=0.05, alpha=0.02, steps=3, k=9)
    expected.set_normalization_used(MEAN, STD)
    torch.testing.assert_close(
        both(normalised, others), expected(normalised, others), rtol=0, atol=1e-9
    )
    assert first._normalization_applied is True


def test_modes_that_make_no_sense_are_refused(attack):
    with pytest.raises(ValueError, match="not supported"):
        attack.set_mode_targeted_by_label(quiet=True)


def test_progress_is_shown_when_asked_for(model, images, capsys):
    attacks.GhorbaniTopK(model, steps=3, k=9, restarts=2, show_progress=True)(images)
    shown = capsys.readouterr()
    assert "GhorbaniTopK" in shown.err
    assert "6/6" in shown.err
    attacks.GhorbaniTopK(model, steps=3, k=9)(images)
    silent = capsys.readouterr()
    assert (silent.out, silent.err) == ("", "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_images_are_brought_to_the_model(make_network, make_images, tmp_path):
    model, images = make_network().cuda(), make_images()
    for attack in build_all(model):
        further = (MAP,) if isinstance(attack, attacks.Dombrowski) else ()
        manipulated = attack(images, None, *further)
        assert manipulated.device.type == "cuda"
        if not isinstance(attack, attacks.RandomSign):
            torch.testing.assert_close(attack(images.cuda(), None, *further), manipulated)
    loader = DataLoader(TensorDataset(images, torch.zeros(3, dtype=torch.long)))
    attack = attacks.GhorbaniTopK(model, steps=2, k=9)
    attack.save(loader, tmp_path / "a.pt", verbose=False, save_predictions=True)
