"""What an audit has measured, on disk: one file for each batch, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]


@dataclass
class BatchResult:
    """The rows of a batch, and the examples that the report may show.

    Attributes:
        rows: For each example what was measured: numbers, texts, and dictionaries of these.
        arrays: Pictures of examples by a name "explanation/position/what".
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    arrays: Arrays = field(default_factory=dict)

    def extend(self, other: BatchResult) -> None:
        """Append what another part of the batch gave."""
        self.rows.extend(other.rows)
        self.arrays.update(other.arrays)


class StoredBatch:
    """A batch as it lies on the disk; what is asked for is read."""

    def __init__(self, archive: Any) -> None:
        self._archive = archive

    @property
    def pictures(self) -> list[str]:
        """The names of the pictures."""
        return [name for name in self._archive.files if name not in ("rows", "digest")]

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the examples."""
        return json.loads(self._archive["rows"].tobytes())

    def picture(self, name: str) -> npt.NDArray[np.float32]:
        """One picture."""
        return self._archive[name]


class BatchStore:
    """A folder of finished batches.

    A batch is one file, a numpy archive without pickle, which is renamed to its name when it is
    complete: a run that is killed leaves finished batches and nothing else that counts.

    Args:
        folder: Where; it is made. None: a temporary folder that goes with the object.
        fingerprint: What two runs must have in common for one to go on with the other's batches.

    Raises:
        ValueError: The folder holds batches of another audit.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, fingerprint: dict[str, Any]) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="audit-")
        self.folder = Path(folder) if folder else Path(self._temporary.name)  # type: ignore[union-attr]
        if self.folder.is_file():
            raise ValueError(f"folder must be a folder, and {self.folder} is a file.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check(fingerprint)

    def has(self, number: int, digest: str = "") -> bool:
        """Whether this batch is finished.

        Args:
            number: Of the batch.
            digest: Of its examples.

        Raises:
            ValueError: The folder has a batch of this number with other examples.
        """
        path = self._file(number)
        if not path.is_file():
            return False
        with np.load(path, allow_pickle=False) as archive:
            known = archive["digest"].tobytes().decode()
        if known != digest:
            raise ValueError(
                f"folder: {self.folder} holds batch {number} with other examples. Pass the same "
                "data in batches of the same size, choose another folder, or delete this one."
            )
        return True

    def count(self) -> int:
        """How many batches are finished."""
        return len(list(self.folder.glob("batch-*.npz")))

    def save(self, number: int, result: BatchResult, digest: str = "") -> None:
        """Write a batch, whole or not at all."""
        texts = {"rows": json.dumps(result.rows), "digest": digest}
        arrays: dict[str, Any] = {
            **{name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()},
            **result.arrays,
        }
        _write(self._file(number), lambda file: np.savez_compressed(file, **arrays))

    def results(self, n_batches: int) -> Iterator[StoredBatch]:
        """The first batches, in order, one at a time in memory."""
        for number in range(n_batches):
            with np.load(self._file(number), allow_pickle=False) as archive:
                yield StoredBatch(archive)

    def close(self) -> None:
        """Remove a temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def _file(self, number: int) -> Path:
        return self.folder / f"batch-{number:08d}.npz"

    def _check(self, fingerprint: dict[str, Any]) -> None:
        path = self.folder / "settings.json"
        text = json.dumps(fingerprint, indent=1, sort_keys=True)
        if not path.is_file():
            _write(path, lambda file: file.write(text.encode()))
            return
        known, wanted = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
        other = [name for name in wanted if known.get(name) != wanted[name]]
        if other:
            raise ValueError(
                f"folder: {self.folder} holds another audit ({', '.join(other)} differ). Choose "
                "another folder, or delete this one."
            )


def _write(path: Path, write: Any) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
