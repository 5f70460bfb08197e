"""Transformers, recurrent layers and modern networks: both derivatives of their explanations."""

from __future__ import annotations

import warnings

import pytest
import torch
from captum.attr import Saliency
from torch import nn
from torchvision import models as tv
from torchvision.models import mobilenetv3
from torchvision.models import swin_transformer as swin

from captum_robust import attacks, metrics
from captum_robust.attr import BetaSmoothedGradient, BetaSmoothing, differentiable

timm = pytest.importorskip("timm")


class Logits(nn.Module):
    """A Hugging Face model of token embeddings, as a function of these."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(inputs_embeds=x)


class Sequence(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.recurrent, self.head = kind(4, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


def vit(**kwargs):
    return tv.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=5, **kwargs,
    )  # fmt: skip


def swin_transformer(**kwargs):
    return swin.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [2, 2], num_classes=5, **kwargs)


def hugging_face(name, **kwargs):
    transformers = pytest.importorskip("transformers")
    common = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{name}Config")(
        **common, intermediate_size=32, num_labels=5, **kwargs
    )
    kind = "ForSequenceClassification" if name == "Bert" else "ForImageClassification"
    return getattr(transformers, f"{name}{kind}")(config)


IMAGE, LARGER = (3, 16, 16), (3, 32, 32)
ARCHITECTURES = {
    "torchvision ViT": (vit, IMAGE),
    "timm ViT": (
        lambda: timm.models.VisionTransformer(
            img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=5
        ), IMAGE
    ),
    "Hugging Face ViT": (lambda: hugging_face("ViT", image_size=16, patch_size=4), IMAGE),
    "BERT by embeddings": (lambda: Logits(hugging_face("Bert", vocab_size=20)), (6, 16)),
    "Swin": (swin_transformer, LARGER),
    "Swin V2": (
        lambda: swin_transformer(
            block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2
        ), LARGER
    ),
    "ConvNeXt": (
        lambda: timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 8, 8, 8), num_classes=5), LARGER
    ),
    "MobileNetV3": (
        lambda: tv.MobileNetV3(
            [mobilenetv3.InvertedResidualConfig(8, 3, 16, 8, True, "HS", 1, 1, 1)], 16,
            num_classes=5,
        ), LARGER
    ),
    "GhostNet": (
        lambda: timm.models.ghostnet.GhostNet(
            [[[3, 16, 16, 0, 1]], [[3, 48, 24, 0.25, 2]]], num_classes=5, width=0.5
        ), LARGER
    ),
    "EfficientFormer": (
        lambda: timm.models.EfficientFormer(
            depths=(1, 1, 1, 1), embed_dims=(8, 8, 12, 16), num_vit=1, num_classes=5
        ), (3, 224, 224)
    ),
    "LSTM": (lambda: Sequence(nn.LSTM), (5, 4)),
    "GRU": (lambda: Sequence(nn.GRU), (5, 4)),
}  # fmt: skip
WITH_RECTIFIERS = ("MobileNetV3", "GhostNet", "EfficientFormer")


def made(name, dtype=torch.float64):
    """A network in evaluation mode, its weights drawn, and one example."""
    torch.manual_seed(0)
    make, shape = ARCHITECTURES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that define them
        model = make().to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    return model, torch.rand(1, *shape, dtype=dtype)


def output_of(model, x):
    output = model(x)
    return getattr(output, "logits", output)


def along(function, x, direction, step=1e-5):
    """The derivative of ``function`` by central differences."""
    with torch.no_grad():
        return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_gradient_of_one_example_is_that_of_finite_differences(name):
    """One example: torch 2.14's own gradient is wrong for EfficientFormer."""
    model, x = made(name)
    direction = torch.randn_like(x)
    want = along(lambda z: output_of(model, z)[:, 1].sum(), x, direction, step=1e-7)
    assert want.abs() > 1e-6
    explain = differentiable(Saliency(model))
    got = (explain(x, target=1, abs=False) * direction).sum()
    torch.testing.assert_close(got.detach(), want, rtol=1e-5, atol=1e-9)
    if name not in WITH_RECTIFIERS:
        with pytest.warns(UserWarning, match="no rectifier of the inputs"):
            smooth = BetaSmoothedGradient(model).attribute(x, target=1)
        torch.testing.assert_close((smooth * direction).sum(), want, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:beta smoothing met no rectifier")
def test_the_second_derivative_is_that_of_finite_differences(name):
    model, x = made(name)
    explain = differentiable(BetaSmoothing(Saliency(model)))
    weight, direction = torch.randn_like(x), torch.randn_like(x)

    def score(z):
        return (explain(z, target=1, abs=False) * weight).sum()

    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(z), z)
    want = along(score, x, direction)
    assert want.abs() > 1e-8
    torch.testing.assert_close((gradient * direction).sum(), want, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:beta smoothing met no rectifier")
def test_attacks_and_metrics_differentiate_twice_unasked(name):
    model, x = made(name, torch.float32)
    box = {} if x.dim() == 4 else {"input_range": None, "channel_dim": 2}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*clean")  # of two steps that found nothing
        attacked = attacks.GhorbaniTopK(model, eps=0.05, steps=2, k=3, **box)(x)
    assert attacked.shape == x.shape
    assert (attacked - x).abs().max() <= 0.05 + 1e-6
    steep = metrics.sensitivity_gradient(
        BetaSmoothing(Saliency(model)), x, n_perturb_samples=1, n_iterations=5, tolerance=0.5,
        target=1, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert steep.isfinite().all()
    assert steep > 0
