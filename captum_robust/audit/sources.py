"""Models and data of the command line: by name, from files and folders."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import math
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

_OF_DAMAGED_FILES = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, RuntimeError,
    TypeError, UnpicklingError, ValueError, struct.error,
)  # fmt: skip
_LONGEST = 300
"""Of what others' messages are repeated, in characters."""

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


def check_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int | None
) -> None:
    """Raise UsageError unless both fit images of so many channels; None: there are no images."""
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std belong together: give both or neither.")
    if mean is None or std is None:
        return
    if channels is None:
        raise UsageError("--mean and --std are for images. Scale the columns of the table.")
    for option, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (1, channels):
            raise UsageError(
                f"{option}: got {len(values)} numbers, and the images have {channels} channels. "
                "Give one number for each, or one for all."
            )
    if min(std) <= 0:
        raise UsageError(f"--std: every number must be positive, got {min(std):g}.")


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
    """The rows of a CSV file of numbers, and the names of its columns.

    Targets are integers where all of them are whole numbers, as those of classes.
    """
    try:
        # Spreadsheets put a byte order mark before the first name.
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--table: {path} cannot be read: {error}.") from None
    if len(lines) < 2:
        raise UsageError(f"--table: {path} has no rows.")
    (_, names), *rows = lines
    if target not in names:
        hint = " Its columns must be separated by commas." if len(names) == 1 else ""
        raise UsageError(
            f"--target: {path} has no column {target!r}, it has {', '.join(names)}.{hint}"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"--table: {path} has more than one column {twice[0]!r}.")
    values = torch.tensor([_numbers(f"{path}, line {n}", names, row) for n, row in rows])
    place = names.index(target)
    labels = values[:, place]
    labels = labels.long() if bool((labels == labels.round()).all()) else labels
    inputs = torch.cat([values[:, :place], values[:, place + 1 :]], dim=1)
    return TensorDataset(inputs, labels), names[:place] + names[place + 1 :]


def _numbers(where: str, names: list[str], cells: list[str]) -> list[float]:
    """The numbers of a row; what cannot be one is named with its line and column."""
    if len(cells) != len(names):
        raise UsageError(
            f"--table: {where} has {len(cells)} cells, and the first line names {len(names)} "
            "columns."
        )
    values = []
    for name, cell in zip(names, cells, strict=True):
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            what = f"holds {cell!r}, which is no finite number" if cell.strip() else "is empty"
            raise UsageError(
                f"--table: {where}, column {name!r} {what}. Fill or drop missing values; encode "
                "categories as numbers, one column for each value."
            )
        values.append(value)
    return values


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
            f"--model: {name} cannot be made: {described(error)}. Without a network give its "
            "weights: --checkpoint FILE."
        ) from None


def _call(module: str, function: str) -> nn.Module:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    name = f"{module}:{function}"
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        own = module == missing or module.startswith(f"{missing}.")
        mend = f" Run the command where {missing}.py lies." if own else ""
        raise UsageError(f"--model: {error}.{mend}") from error
    except Exception as error:  # whatever a user's own code raises
        raise UsageError(f"--model: importing {module} raised {described(error)}.") from error
    if not hasattr(imported, function):
        raise UsageError(f"--model: {module} has no {function!r}.")
    found = getattr(imported, function)
    try:
        model = found if isinstance(found, nn.Module) else found()
    except Exception as error:
        raise UsageError(f"--model: {name} raised {described(error)}.") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model: {name} gave {type(model).__name__}, not a torch.nn.Module.")
    return model


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"--checkpoint: there is no file {path}.")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_state_dict
    state = read(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UsageError(f"--checkpoint: {path} {_NO_STATE_DICT}.")
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        reason = lines[0].rstrip(".") if lines else described(error)
        raise UsageError(
            f"--checkpoint: {path} does not hold the weights of this model: {_short(reason)}."
        ) from None


_NO_STATE_DICT = "is damaged or not a state dict, as torch.save(model.state_dict(), FILE) writes it"


def _read_state_dict(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"--checkpoint: {path} cannot be read: {described(error)}.") from error
    except _OF_DAMAGED_FILES as error:
        # Torch's own words advise to load the file without its protection: they are not repeated.
        raise UsageError(f"--checkpoint: {path} {_NO_STATE_DICT}.") from error


def _read_safetensors(path: Path) -> Any:
    if importlib.util.find_spec("safetensors") is None:
        raise UsageError(
            "--checkpoint: safetensors is not installed. Install it: pip install safetensors."
        )
    library = importlib.import_module("safetensors")
    try:
        return importlib.import_module("safetensors.torch").load_file(path)
    except (library.SafetensorError, OSError) as error:
        raise UsageError(
            f"--checkpoint: {path} is damaged or not a safetensors file: {_short(str(error))}."
        ) from error


def described(error: BaseException) -> str:
    """Kind and first line of an error."""
    text = _first_line(error)
    return type(error).__name__ + (f": {text}" if text else "")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return _short(lines[0].rstrip(".")) if lines else ""


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
