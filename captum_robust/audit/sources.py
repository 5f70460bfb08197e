"""Models and data of the command line: by name, from files and folders."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import os
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError  # what weights_only raises; nothing is unpickled
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from captum_robust._utils.forward import logits_of

# What reading a damaged file raises besides OSError and RuntimeError.
_OF_DAMAGED_FILES = (
    ArithmeticError, AssertionError, EOFError, LookupError, ValueError, struct.error,
)  # fmt: skip

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class UsageError(ValueError):
    """A wrong call of the command line: one line that names the option and the mend."""


class Normalized(nn.Module):
    """A model with the normalisation of its inputs before it, so that these are in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """The model's output for images in [0, 1]."""
        return logits_of(self.model((images - self.mean) / self.std))


def load_model(name: str, checkpoint: str | None) -> nn.Module:
    """A model by ``module:function``, ``torchvision:name``, ``timm:name`` or ``zoo:name``.

    With a checkpoint, the weights are read from it; without, torchvision's and timm's models get
    their published weights, which these packages download.
    """
    source, colon, rest = name.partition(":")
    if not colon or not rest:
        raise UsageError(
            f"--model must be MODULE:FUNCTION, torchvision:NAME or timm:NAME, got {name!r}."
        )
    if source == "torchvision":
        model = _torchvision(rest, pretrained=checkpoint is None)
    elif source == "timm":
        model = _timm(rest, pretrained=checkpoint is None)
    elif source == "zoo":
        model = _call("captum_robust.zoo", rest)
    else:
        model = _call(source, rest)
    if checkpoint is not None:
        _load_weights(model, Path(checkpoint))
    return model.eval()


def image_folder(folder: str, size: int, channels: int) -> tuple[Dataset, list[str] | None]:
    """The images of a folder, and the names of its classes where it has a folder for each.

    Every file is opened once, so that a broken one is found before the work begins.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"--images: there is no folder {folder}.")
    classes = sorted(path.name for path in root.iterdir() if path.is_dir())
    files = sorted(
        path for path in root.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS and path.is_file()
    )
    if not files:
        raise UsageError(f"--images: {folder} has no image ({', '.join(IMAGE_ENDINGS)}).")
    for path in files:
        _check_image(path)
    return _Images(files, classes, root, size, channels), classes or None


def table(path: str, target: str) -> tuple[TensorDataset, list[str]]:
    """The rows of a CSV file of numbers, and the names of its columns."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--table: {path} cannot be read: {error}.") from None
    if not rows:
        raise UsageError(f"--table: {path} has no rows.")
    if target not in rows[0]:
        raise UsageError(f"--target: {path} has no column {target!r}, it has {', '.join(rows[0])}.")
    names = [name for name in rows[0] if name != target]
    try:
        inputs = torch.tensor([[float(row[name]) for name in names] for row in rows])
        labels = torch.tensor([int(float(row[target])) for row in rows])
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"--table: {path} must hold numbers alone ({error}). Encode its categories as numbers, "
            "one column for each value."
        ) from None
    return TensorDataset(inputs, labels), names


class _Images(Dataset):
    def __init__(
        self, files: list[Path], classes: list[str], root: Path, size: int, channels: int
    ) -> None:
        from torchvision import transforms

        self._files, self._classes, self._root = files, classes, root
        self._mode = {1: "L", 3: "RGB"}[channels]
        self._transform = transforms.Compose(
            [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | Tensor:
        from PIL import Image

        path = self._files[index]
        with Image.open(path) as image:
            pixels = self._transform(image.convert(self._mode))
        if not self._classes:
            return pixels
        return pixels, self._classes.index(path.relative_to(self._root).parts[0])


def _check_image(path: Path) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise UsageError(f"--images: {path} cannot be read as an image: {error}.") from None


def _torchvision(name: str, pretrained: bool) -> nn.Module:
    from torchvision import models

    if name not in models.list_models():
        raise UsageError(f"--model: torchvision has no model {name!r}.")
    return _built(lambda: models.get_model(name, weights="DEFAULT" if pretrained else None), name)


def _timm(name: str, pretrained: bool) -> nn.Module:
    if importlib.util.find_spec("timm") is None:
        raise UsageError("--model: timm is not installed. Install it: pip install timm.")
    timm = importlib.import_module("timm")
    if not timm.is_model(name):
        raise UsageError(f"--model: timm has no model {name!r}.")
    return _built(lambda: timm.create_model(name, pretrained=pretrained), name)


def _built(build: Callable[[], nn.Module], name: str) -> nn.Module:
    try:
        return build()
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"--model: {name} cannot be made: {_first_line(error)}. Without a network give its "
            "weights: --checkpoint FILE."
        ) from None


def _call(module: str, function: str) -> nn.Module:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise UsageError(f"--model: {error}. Run the command where {module}.py lies.") from None
    except AttributeError:
        raise UsageError(f"--model: {module} has no {function!r}.") from None
    model = found if isinstance(found, nn.Module) else found()
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--model: {module}:{function} gave {type(model).__name__}, not a torch.nn.Module."
        )
    return model


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"--checkpoint: there is no file {path}.")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_state_dict
    try:
        state = read(path)
        model.load_state_dict(state.get("state_dict", state))
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, UnpicklingError) as error:
        raise UsageError(
            f"--checkpoint: {path} does not hold the weights of this model: {_first_line(error)}."
        ) from None


def _read_state_dict(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _OF_DAMAGED_FILES as error:
        raise OSError(str(error) or "it ends too soon") from None


def _read_safetensors(path: Path) -> dict[str, Any]:
    if importlib.util.find_spec("safetensors") is None:
        raise UsageError(
            "--checkpoint: safetensors is not installed. Install it: pip install safetensors."
        )
    library = importlib.import_module("safetensors")
    try:
        return importlib.import_module("safetensors.torch").load_file(path)
    except library.SafetensorError as error:
        raise OSError(str(error)) from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
