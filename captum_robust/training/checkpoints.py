"""Checkpoints that are whole or not there: written aside, then renamed; damage is noticed."""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from captum_robust._utils.checks import check_count

_NAME = re.compile(r"checkpoint-(\d{6})-step-(\d+)-([0-9a-f]{16})\.pt")
_FORMAT = "captum_robust training checkpoint, 1"


class Checkpoints:
    """A folder of checkpoints of one training run.

    A file holds the weights, the optimiser, the place in the data and all else that a resumed run
    needs, in the form that ``torch.load(path, weights_only=True)`` reads. Its name carries a
    checksum. It appears under that name only when all of it is on the disk; where that fails, as
    on a full disk, the checkpoints before it stay.

    Args:
        folder: Made where it is not there. One folder for one run.
        every: Steps of the optimiser between two checkpoints. The end of an epoch always has one.
        keep: How many of the newest are kept.

    Raises:
        ValueError, TypeError: ``every`` or ``keep`` is not a count from 1 on.
    """

    def __init__(self, folder: str | os.PathLike[str], every: int = 500, keep: int = 2) -> None:
        check_count(every=every, keep=keep)
        self.folder, self.every, self.keep = Path(folder), every, keep

    def __repr__(self) -> str:
        return f"Checkpoints({str(self.folder)!r}, every={self.every}, keep={self.keep})"

    def files(self) -> list[Path]:
        """The checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the checkpoint of a step, then remove the oldest.

        Raises:
            TypeError: ``state`` holds what ``weights_only=True`` cannot read back.
            OSError: It cannot be written; those before it are as they were.
        """
        before = self.files()
        content = _serialized({"format": _FORMAT, **state})
        number = int(_NAME.fullmatch(before[-1].name)[1]) + 1 if before else 1  # type: ignore[index]
        path = self.folder / f"checkpoint-{number:06d}-step-{step}-{_checksum(content)}.pt"
        aside = self.folder / f".{path.name}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            _sync(self.folder)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            last = self.files()
            rest = f"The last good one is {last[-1]}" if last else "There is none before it"
            raise OSError(
                error.errno,
                f"the checkpoint of step {step} could not be written: {error.strerror}. {rest}; "
                "free some disk space, and call fit again to go on from there",
                str(path),
            ) from error
        for old in self.files()[: -self.keep]:
            old.unlink()
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None where there is none.

        Raises:
            ValueError: It is damaged, or no checkpoint of this library.
        """
        files = self.files()
        if not files:
            return None
        for leftover in self.folder.glob(".checkpoint-*.pt.*"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        path = files[-1]
        content = path.read_bytes()
        match = _NAME.fullmatch(path.name)
        assert match is not None
        remedy = f"Delete it to go on from {files[-2].name}." if len(files) > 1 else "Delete it."
        if _checksum(content) != match[3]:
            raise ValueError(f"checkpoint {path} is damaged: its checksum is wrong. {remedy}")
        try:
            state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        except Exception as error:
            raise ValueError(f"checkpoint {path} cannot be read: {error}. {remedy}") from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise ValueError(f"{path} is not a checkpoint of captum_robust's training. {remedy}")
        return state


def _checksum(content: Any) -> str:
    return sha256(content).hexdigest()[:16]


def _sync(folder: Path) -> None:
    """Make a renaming last through a loss of power, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _serialized(state: dict[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, weights_only=True)
    except Exception as error:
        raise TypeError(
            "checkpoints: the state of the optimiser, scheduler, objective or a callback holds "
            f"what cannot be read back safely ({error!s:.300}). Keep it to numbers, texts, "
            "tensors, lists and dictionaries of Python's and torch's own."
        ) from error
    return buffer.getbuffer()
