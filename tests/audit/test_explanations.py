import pytest
import torch
from captum.attr import GradientShap, IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from torch import nn

from captum_robust._utils.attributions import draws_of
from captum_robust.attr import KernelSmoothing
from captum_robust.audit.explanations import Explained, admitted, bound, named_explanations


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


def test_only_an_explanation_that_draws_asks_for_a_generator(tiny_model, tiny_batches):
    model, (images, _) = tiny_model(), tiny_batches()[0]
    target = torch.tensor([0, 1, 2])
    fixed = Explained(IntegratedGradients(model), {"n_steps": 3})
    assert not any(draws_of(bound(fixed)))  # so that many copies are explained at once
    assert torch.equal(bound(fixed).attribute(images, target), fixed(images, target))
    drawing = Explained(KernelSmoothing(Saliency(model)), {"n_samples": 2})
    assert draws_of(bound(drawing)).from_generator
    first, again = (
        bound(drawing).attribute(images, target, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, again)


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
