import pytest
import torch
from captum.attr import GradientShap, LayerGradCam, NoiseTunnel, Saliency
from torch import nn

from captum_robust.audit.explanations import Explained, admitted, named_explanations


def test_the_usual_explanations_come_unasked(tiny_model, tiny_batches):
    model, (images, _) = tiny_model(), tiny_batches()[0]
    named = named_explanations(None, model, (0.0, 1.0))
    found, refused = admitted(named, images, torch.tensor([0]))
    assert list(found) == [
        "gradient", "integrated gradients", "LRP", "guided backpropagation", "SmoothGrad",
        "beta-smoothed gradient",
    ]  # fmt: skip
    assert not refused
    for explained in found.values():
        assert explained(images, torch.tensor([0, 1, 2])).shape == images.shape


def test_names_choose_among_the_usual(tiny_model):
    assert list(named_explanations(["LRP", "gradient"], tiny_model(), None)) == ["LRP", "gradient"]
    with pytest.raises(ValueError, match="'magic' is not one of gradient, integrated"):
        named_explanations(["gradient", "magic"], tiny_model(), None)


def test_arguments_are_handed_on_and_draws_are_repeated(tiny_model, tiny_batches):
    model, (images, _) = tiny_model(), tiny_batches()[0]
    explained = Explained(NoiseTunnel(Saliency(model)), {"nt_samples": 2, "stdevs": 0.3})
    before = torch.get_rng_state()
    target = torch.tensor([0, 1, 2])
    first, again, other = (explained(images, target, seed=n) for n in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_what_a_model_does_not_admit_is_named(tiny_model, tiny_batches):
    model, (images, _) = tiny_model(), tiny_batches()[0]
    named = named_explanations(
        {
            "gradient": Saliency(model),
            "Grad-CAM": LayerGradCam(model, model[5]),
            "needs baselines": GradientShap(model),
            "NaN": Saliency(lambda x: model(x) * torch.nan),
        },
        model,
        None,
    )
    found, refused = admitted(named, images, torch.tensor([0]))
    assert list(found) == ["gradient"]
    assert "no relevance map" in refused["Grad-CAM"]
    assert "NaN or Inf" in refused["NaN"]
    assert set(refused) == {"Grad-CAM", "needs baselines", "NaN"}


@pytest.mark.parametrize(
    ("explanations", "error", "message"),
    [
        ([], TypeError, "explanations must be a dictionary"),
        ({}, ValueError, "explanations is empty"),
        ({"model": nn.ReLU()}, TypeError, "'model' must be a captum Attribution"),
        ({"pair": (Saliency(nn.ReLU()), 3)}, TypeError, "'pair' must be a captum Attribution"),
    ],
)
def test_wrong_explanations(explanations, error, message):
    with pytest.raises(error, match=message):
        named_explanations(explanations, nn.ReLU(), None)
