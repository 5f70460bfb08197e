"""The images of the reproductions, as tensors in [0, 1]."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST, ImageFolder
from torchvision.transforms import functional as T

BIRD, FROG = 2, 6  # classes of CIFAR-10


def mnist(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) and labels; fetched where they are absent."""
    data = MNIST(root, train=train, download=True)
    return data.data.unsqueeze(1).float() / 255, data.targets


def fashion_mnist(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) and labels; fetched where they are absent."""
    data = FashionMNIST(root, train=train, download=True)
    return data.data.unsqueeze(1).float() / 255, data.targets


def cifar10(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels.

    From ``root/cifar10/{train,test}/CLASS/*`` where that is, otherwise from torchvision's files,
    which are fetched where they are absent.
    """
    folder = root / "cifar10" / ("train" if train else "test")
    data = ImageFolder(folder) if folder.is_dir() else CIFAR10(root, train=train, download=True)
    images = torch.stack([T.pil_to_tensor(image) for image, _ in data])
    return images.float() / 255, torch.tensor(data.targets)


def photographs(root: Path, n: int, seed: int) -> Tensor:
    """The middle 224 x 224 pixels of ``n`` photographs in a folder, drawn with ``seed``."""
    return torch.stack([photograph(path) for path in photograph_paths(root, n, seed)])


def photograph_paths(root: Path, n: int, seed: int) -> list[Path]:
    """``n`` photographs in a folder, drawn with ``seed``; all where there are fewer."""
    paths = sorted(p for p in root.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))[:n]
    return [paths[i] for i in order]


def photograph(path: Path) -> Tensor:
    """The middle 224 x 224 pixels of a photograph whose shorter side is made 256."""
    image = T.center_crop(T.resize(Image.open(path).convert("RGB"), 256), [224, 224])
    return T.to_tensor(image)


def some(images: Tensor, n: int, seed: int) -> Tensor:
    """``n`` of the images, drawn with ``seed``."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:n]]


def birds_and_frogs(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """CIFAR-10's birds (0) and frogs (1), in turn."""
    images, labels = cifar10(root, train)
    pair = [images[labels == c] for c in (BIRD, FROG)]
    return torch.stack(pair, dim=1).flatten(0, 1), torch.tensor([0, 1]).repeat(len(pair[0]))


def captioned(
    images: Tensor, labels: Tensor, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, 32, 64): an image on the left, "bird" or "frog" on the right; and labels.

    The caption is always that of the label. With probability ``noise`` the image is replaced by
    one of the other class.
    """
    swap = torch.rand(len(labels), generator=generator) < noise
    chosen = torch.arange(len(labels))
    for c in (0, 1):
        others = (labels != c).nonzero().flatten()
        draw = torch.randint(len(others), (len(labels),), generator=generator)
        chosen = torch.where(swap & (labels == c), others[draw], chosen)
    return torch.cat([images[chosen], captions(labels, generator)], dim=3), labels


def captions(labels: Tensor, generator: torch.Generator) -> Tensor:
    """The words in white on black, (N, 3, 32, 32), at a place that varies by some pixels."""
    font = ImageFont.truetype(get_data_path() + "/fonts/ttf/DejaVuSans.ttf", 11)
    words = []
    for word in ("bird", "frog"):
        canvas = Image.new("L", (32, 32))
        ImageDraw.Draw(canvas).text((16, 16), word, 255, font, anchor="mm")
        words.append(T.to_tensor(canvas))
    drawn = torch.stack(words)[labels]
    down = torch.randint(-7, 8, (len(labels),), generator=generator)
    right = torch.randint(-2, 3, (len(labels),), generator=generator)
    moved = [x.roll((int(d), int(r)), (1, 2)) for x, d, r in zip(drawn, down, right, strict=True)]
    return torch.stack(moved).expand(-1, 3, -1, -1)
