"""Small networks of many kinds with random weights; nothing is downloaded.

Each entry gives a model in evaluation mode, inputs for two examples, what its outputs mean, and the
bounds of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.forward import logits_of


@dataclass(frozen=True)
class Case:
    """A network and its inputs.

    Attributes:
        model: In evaluation mode.
        inputs: (2, ...) floating-point.
        input_range: Bounds of the inputs; None: unbounded.
        channel_dim: Dimension that relevance maps sum over.
    """

    model: nn.Module
    inputs: Tensor
    input_range: tuple[float, float] | None = (0.0, 1.0)
    channel_dim: int = 1


def image_case(model: nn.Module, size: int = 32, channels: int = 3) -> Case:
    generator = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=0.1)  # or nothing could be explained
    images = torch.rand(2, channels, size, size, generator=generator)
    with torch.no_grad():
        vanishes = bool((logits_of(model.eval()(images)).abs() < 1e-9).all())
    if vanishes:
        _normalise(model, torch.rand(8, channels, size, size, generator=generator))
    return Case(model.eval(), images)


def _normalise(model: nn.Module, images: Tensor) -> None:
    """Give batch norms the statistics of images, or rounding is all that is left of these."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def signal_case(model: nn.Module, *shape: int, channel_dim: int = 1) -> Case:
    generator = torch.Generator().manual_seed(1)
    return Case(model.eval(), torch.randn(2, *shape, generator=generator), None, channel_dim)


class OfEmbeddings(nn.Module):
    """A language model of Hugging Face as a function of the embeddings of its tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, embeddings: Tensor) -> Any:
        return self.model(inputs_embeds=embeddings)


class LastState(nn.Module):
    """A recurrent layer, and a classifier of its last state."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, series: Tensor) -> Tensor:
        states, _ = self.layer(series)
        return self.head(states[:, -1])


class MeanOverPositions(nn.Module):
    """A segmentation network as a classifier: its logits, averaged over the image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)["out"].mean((2, 3))


class WithCategories(nn.Module):
    """A table of numbers beside categories, which are embedded; these are fixed here."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.layers = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, numbers: Tensor) -> Tensor:
        category = self.embedding(torch.zeros(len(numbers), dtype=torch.long))
        return self.layers(torch.cat([numbers, category], dim=1))


def torchvision_case(name: str, size: int = 48, **options: Any) -> Callable[[], Case]:
    def build() -> Case:
        from torchvision import models

        model = models.get_model(name, weights=None, num_classes=5, **options)
        if name == "alexnet" or name.startswith("vgg"):  # of a hundred million weights
            first = next(layer for layer in model.classifier if isinstance(layer, nn.Linear))
            model.classifier = nn.Sequential(
                nn.Linear(first.in_features, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 5)
            )
        return image_case(model, size)

    return build


def timm_case(name: str, size: int = 64, **options: Any) -> Callable[[], Case]:
    def build() -> Case:
        import timm

        return image_case(timm.create_model(name, num_classes=5, **options), size)

    return build


def hugging_face_case(kind: str, **options: Any) -> Callable[[], Case]:
    def build() -> Case:
        import transformers

        config = getattr(transformers, f"{kind}Config")(num_labels=3, **options)
        sees = kind == "ConvNext" or hasattr(config, "image_size")
        suffix = "ImageClassification" if sees else "SequenceClassification"
        model = getattr(transformers, f"{kind}For{suffix}")(config).eval()
        if sees:
            return image_case(model)
        width = getattr(config, "hidden_size", None) or config.dim
        return signal_case(OfEmbeddings(model), 6, width, channel_dim=2)

    return build


def _vit(**options: Any) -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64,
        num_classes=5, **options,
    )  # fmt: skip


def _segmentation() -> nn.Module:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)


_TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip

ARCHITECTURES: dict[str, Callable[[], Case]] = {
    "torchvision AlexNet": torchvision_case("alexnet", 64),
    "torchvision VGG-11": torchvision_case("vgg11", 32),
    "torchvision VGG-11 with batch norm": torchvision_case("vgg11_bn", 32),
    "torchvision SqueezeNet": torchvision_case("squeezenet1_1"),
    "torchvision ResNet-18": torchvision_case("resnet18"),
    "torchvision DenseNet-121": torchvision_case("densenet121"),
    "torchvision GoogLeNet": torchvision_case("googlenet", aux_logits=False, init_weights=False),
    "torchvision MobileNetV2": torchvision_case("mobilenet_v2"),
    "torchvision MobileNetV3": torchvision_case("mobilenet_v3_small"),
    "torchvision MNASNet": torchvision_case("mnasnet0_5"),
    "torchvision ShuffleNetV2": torchvision_case("shufflenet_v2_x0_5"),
    "torchvision RegNet": torchvision_case("regnet_y_400mf"),
    "torchvision EfficientNet": torchvision_case("efficientnet_b0"),
    "torchvision ConvNeXt": torchvision_case("convnext_tiny"),
    "torchvision Swin": torchvision_case("swin_t"),
    "torchvision Swin V2": torchvision_case("swin_v2_t"),
    "torchvision ViT": lambda: image_case(_vit()),
    "torchvision LR-ASPP (segmentation)": lambda: image_case(
        MeanOverPositions(_segmentation()), 64
    ),
    "timm ViT": timm_case("vit_tiny_patch16_224", 32, img_size=32, patch_size=8, depth=2),
    "timm DeiT": timm_case("deit_tiny_patch16_224", 32, img_size=32, patch_size=8, depth=2),
    "timm GhostNet": timm_case("ghostnet_050"),
    "timm EfficientFormer": timm_case("efficientformer_l1", 224),
    "timm MLP-Mixer": timm_case("mixer_s32_224", 64, img_size=64),
    "timm MobileViT": timm_case("mobilevit_xxs"),
    "timm PoolFormer": timm_case("poolformer_s12"),
    "timm LCNet": timm_case("lcnet_050"),
    "Hugging Face ViT": hugging_face_case("ViT", image_size=32, patch_size=8, **_TINY),
    "Hugging Face Swin": hugging_face_case(
        "Swin", image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2],
        window_size=4,
    ),
    "Hugging Face ConvNeXt": hugging_face_case(
        "ConvNext", hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]
    ),
    "Hugging Face BERT (embeddings)": hugging_face_case("Bert", **_TINY),
    "Hugging Face RoBERTa (embeddings)": hugging_face_case("Roberta", **_TINY),
    "Hugging Face DistilBERT (embeddings)": hugging_face_case(
        "DistilBert", dim=32, n_layers=2, n_heads=2, hidden_dim=64
    ),
    "LSTM (series)": lambda: signal_case(
        LastState(nn.LSTM(4, 8, batch_first=True), 8), 6, 4, channel_dim=2
    ),
    "GRU (series)": lambda: signal_case(
        LastState(nn.GRU(4, 8, batch_first=True), 8), 6, 4, channel_dim=2
    ),
    "MLP (table)": lambda: signal_case(
        nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), 6
    ),
    "MLP with embeddings (table)": lambda: signal_case(WithCategories(), 6),
    "CNN (series)": lambda: signal_case(
        nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)), 2, 12
    ),
    "CNN (volume)": lambda: signal_case(
        nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)), 1, 6, 6, 6
    ),
}  # fmt: skip
