"""Networks of torchvision, timm and Hugging Face, tiny and with random weights, by rules."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

from captum_robust.attr import (
    EpsilonRule,
    GammaRule,
    GuidedBackprop,
    RelevancePropagation,
    differentiable,
)
from tests.helpers import rng


def torchvision_swin(**options):
    return models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=5, **options)


def torchvision_swin_v2():
    swin = models.swin_transformer
    return torchvision_swin(block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2)


def torchvision_vit():
    model = models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model


def torchvision_convnext():
    return models.ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=5)


def timm(name, **options):
    return lambda: pytest.importorskip("timm").create_model(name, num_classes=5, **options)


def hugging_face(kind, **options):
    def make():
        transformers = pytest.importorskip("transformers")
        config = getattr(transformers, f"{kind}Config")(
            image_size=32, num_labels=5, initializer_range=0.2, **options
        )
        return getattr(transformers, f"{kind}ForImageClassification")(config)

    return make


VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 4}
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
HF_VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "patch_size": 8,
}  # fmt: skip
HF_SWIN = {
    "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "patch_size": 4, "window_size": 4,
}  # fmt: skip
SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}

# How to make it, the width of its images, and whether it has a class token, which is a constant
# that takes relevance.
NETWORKS = {
    "torchvision MobileNetV3": (lambda: models.mobilenet_v3_small(num_classes=5), 32, False),
    "torchvision ViT": (torchvision_vit, 32, True),
    "torchvision Swin": (torchvision_swin, 32, False),
    "torchvision Swin V2": (torchvision_swin_v2, 32, False),
    "torchvision ConvNeXt": (torchvision_convnext, 32, False),
    "timm ViT": (timm("vit_tiny_patch16_224", **VIT), 32, True),
    "timm DeiT": (timm("deit_tiny_distilled_patch16_224", **VIT), 32, True),
    "timm Swin": (timm("swin_tiny_patch4_window7_224", **SWIN), 32, False),
    "timm ConvNeXt": (timm("convnext_atto", **SMALL), 32, False),
    "timm ConvNeXt V2": (timm("convnextv2_atto", **SMALL), 32, False),
    "timm GhostNet": (timm("ghostnet_050"), 32, False),
    "timm MobileNetV3": (timm("mobilenetv3_small_050"), 32, False),
    "timm EfficientFormer": (
        timm("efficientformer_l1", depths=(1, 1, 1, 2), embed_dims=(16, 24, 32, 48)), 224, False,
    ),
    "Hugging Face ViT": (hugging_face("ViT", **HF_VIT), 32, True),
    "Hugging Face DeiT": (hugging_face("DeiT", **HF_VIT), 32, True),
    "Hugging Face Swin": (hugging_face("Swin", **HF_SWIN), 32, False),
}  # fmt: skip


def network(name):
    make, width, has_token = NETWORKS[name]
    torch.manual_seed(0)
    model = make().double().eval().requires_grad_(False)
    return model, torch.rand(2, 3, width, width, generator=rng(), dtype=torch.float64), has_token


@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_is_conserved(name):
    model, x, has_token = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for rule in (GammaRule(), EpsilonRule(bias_takes_relevance=False)):
        explain = RelevancePropagation(model, rule=rule, attention_weights=False)
        relevance = explain._detached(x, 1, None)
        assert relevance.isfinite().all()
        assert relevance.any()
        if not has_token:
            total = relevance.sum((1, 2, 3))
            torch.testing.assert_close(total, torch.ones(2).double(), rtol=1e-3, atol=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_by_the_default_rule_and_guided(name):
    model, x, _ = network(name)
    for explain in (RelevancePropagation(model), GuidedBackprop(model)):
        found = explain._detached(x, 1, None)
        assert found.shape == x.shape
        assert found.isfinite().all()
        assert found.any()


@pytest.mark.parametrize("name", [n for n in NETWORKS if "Efficient" not in n])
@pytest.mark.slow
def test_the_gradient_is_a_finite_difference(name):
    model, x, _ = network(name)
    explain = differentiable(RelevancePropagation(model, rule=GammaRule()))
    x = x[:1].requires_grad_()
    weights = torch.randn(x.shape, generator=rng(1), dtype=torch.float64)
    (slope,) = torch.autograd.grad((explain(x, target=1) * weights).sum(), x)
    direction = torch.randn(x.shape, generator=rng(2), dtype=torch.float64)
    step = 1e-7
    ends = [(explain(x.detach() + s * direction, target=1) * weights).sum() for s in (step, -step)]
    difference = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), difference, rtol=1e-2, atol=1e-6)
