"""A checkpoint is whole or not there, and damage is noticed."""

from __future__ import annotations

import errno
import os
from hashlib import sha256

import numpy as np
import pytest
import torch

from captum_robust.training import (
    Checkpoints,
    CrossEntropy,
    Trainer,
)
from tests.training.runs import Interrupted, data, fit, interrupt_at, network, same, trainer


def test_only_the_newest_are_kept_and_all_can_be_read_safely(tmp_path):
    run = trainer()
    run.fit(data(), 1, checkpoints=Checkpoints(tmp_path, every=1, keep=3), show_progress=False)
    files = Checkpoints(tmp_path).files()
    assert [file.name[:25] for file in files] == [
        f"checkpoint-00000{i}-step-{i}-" for i in (4, 5, 6)
    ]
    assert sorted(tmp_path.iterdir()) == files
    state = torch.load(files[-1], weights_only=True)
    assert same(state["model"], run.weights())


def damaged(content: bytes) -> list[bytes]:
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return [b"", content[:middle], content[:-1], flipped, content + b"\0"]


@pytest.mark.parametrize("case", range(5))
def test_a_damaged_checkpoint_is_an_error_that_says_what_to_do(case, tmp_path):
    fit(trainer(), tmp_path, every=100, epochs=2)
    before, last = Checkpoints(tmp_path).files()
    content = last.read_bytes()
    last.write_bytes(damaged(content)[case])
    run = trainer()
    weights = run.weights()
    with pytest.raises(ValueError, match=f"damaged.*Delete it to go on from {before.name}"):
        fit(run, tmp_path)
    assert same(run.weights(), weights)
    last.unlink()
    assert len(fit(trainer(), tmp_path, every=100, epochs=2).history) == 2


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    for content in (b"hello", None):
        path = tmp_path / "file"
        if content is None:
            torch.save({"model": {}}, path)
        else:
            path.write_bytes(content)
        digest = sha256(path.read_bytes()).hexdigest()[:16]
        path = path.rename(tmp_path / f"checkpoint-000001-step-1-{digest}.pt")
        with pytest.raises(ValueError, match=r"cannot be read|not a checkpoint of captum_robust"):
            fit(trainer(), tmp_path)
        path.unlink()


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save({"format": Evil()}, tmp_path / "file")
    digest = sha256((tmp_path / "file").read_bytes()).hexdigest()[:16]
    (tmp_path / "file").rename(tmp_path / f"checkpoint-000001-step-1-{digest}.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        fit(trainer(), tmp_path)
    assert not (tmp_path / "evil").exists()


def test_a_full_disk_leaves_the_last_good_checkpoint(whole, tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        fit(trainer(interrupt_at(4)), tmp_path)
    before = {file: file.read_bytes() for file in Checkpoints(tmp_path).files()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="the checkpoint of step 5 could not be written"):
            fit(trainer(), tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert same(fit(trainer(), tmp_path).weights(), whole.weights())


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"could not be written.*There is none before it"):
        fit(trainer(), tmp_path / "file" / "folder")


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_is_never_removed(keep, tmp_path):
    folder = Checkpoints(tmp_path, keep=keep)
    for step in (7, 7, 3):
        assert folder.save(step, {"step": step}).exists()
        assert folder.load()["step"] == step
    assert len(folder.files()) == keep


def test_a_state_that_cannot_be_read_back_safely_is_not_written(tmp_path):
    with pytest.raises(TypeError, match="cannot be read back safely"):
        Checkpoints(tmp_path).save(1, {"lr": np.float64(0.1)})
    assert not list(tmp_path.iterdir())
    seeded = Trainer(network(), CrossEntropy(), seed=np.int64(3))
    seeded.fit(data(), 1, checkpoints=tmp_path, show_progress=False)
    assert Checkpoints(tmp_path).load() is not None


def test_what_a_killed_writer_left_is_cleared_away(whole, tmp_path):
    with pytest.raises(Interrupted):
        fit(trainer(interrupt_at(4)), tmp_path)
    half = tmp_path / ".checkpoint-000009-step-9-0123456789abcdef.pt.77"
    half.write_bytes(b"half of it")
    assert same(fit(trainer(), tmp_path).weights(), whole.weights())
    assert not half.exists()


@pytest.mark.parametrize("options", [{"every": 0}, {"keep": 0}])
def test_counts_from_one_on(options, tmp_path):
    with pytest.raises(ValueError, match="must be at least 1"):
        Checkpoints(tmp_path, **options)
