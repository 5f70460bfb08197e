"""Nothing is lost: what is written is whole, and a resumed run ends where it would have ended."""

from __future__ import annotations

import errno
import os
import random
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from captum_robust.training import (
    ATEX,
    ATEXTrainer,
    Checkpoints,
    CrossEntropy,
    EarlyStopping,
    SmoothGradDirections,
    Trainer,
)

DELTAS = {"delta1": 0.2, "delta2": 0.2}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Augmented(Dataset):
    """Noise from torch, numpy and Python, anew whenever an example is read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int):
        x = torch.full((6,), index / 20) + 0.1 * torch.rand(6)
        x = x + 0.1 * float(np.random.rand()) + 0.1 * random.random()  # noqa: NPY002
        return x, index % 3


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
    )


class Interrupted(Exception):
    pass


def interrupt_at(step: int):
    """An objective for which the run ends at a step, as if it was killed there."""

    class Fatal(ATEX):
        calls = 0

        def __call__(self, student, teacher, batch):
            if Fatal.calls == step:
                raise Interrupted
            Fatal.calls += 1
            return super().__call__(student, teacher, batch)

    return Fatal


def trainer(objective=ATEX, **directions) -> Trainer:
    directions = {"n_samples": 2, **directions}
    return Trainer(
        network(), objective(**DELTAS, n_across=2, directions=SmoothGradDirections(**directions)),
        steps_per_batch=2,
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=40),
    )  # fmt: skip


def data(workers: int = 0) -> DataLoader:
    return DataLoader(Augmented(), batch_size=8, shuffle=True, num_workers=workers)


def fit(run: Trainer, folder: Path | None = None, every: int = 1, epochs: int = 3, **options):
    checkpoints = None if folder is None else Checkpoints(folder, every=every)
    callbacks = [EarlyStopping("val_stability", patience=9)]
    run.fit(
        options.pop("loader", None) or data(), epochs, validation=data(), callbacks=callbacks,
        checkpoints=checkpoints, show_progress=False,
    )  # fmt: skip
    return run


@pytest.fixture(scope="module")
def whole() -> Trainer:
    """A run of 3 epochs, 3 batches and 2 steps that nothing interrupted."""
    return fit(trainer())


@pytest.mark.parametrize("every", [1, 5])
def test_checkpoints_change_nothing(whole, tmp_path, every):
    assert same(fit(trainer(), tmp_path, every).weights(), whole.weights())


@pytest.mark.parametrize("step", range(1, 18))
@pytest.mark.parametrize("every", [1, 4])
def test_a_run_interrupted_at_any_step_ends_bit_equal(whole, tmp_path, step, every):
    with pytest.raises(Interrupted):
        fit(trainer(interrupt_at(step)), tmp_path, every)
    resumed = fit(trainer(), tmp_path, every)
    assert same(resumed.weights(), whole.weights())
    assert same(
        resumed.optimizer.state_dict()["state"][0], whole.optimizer.state_dict()["state"][0]
    )
    assert resumed.history == whole.history


@pytest.mark.parametrize("step", [4, 5, 8, 11, 12])
def test_directions_of_the_student_resume_too(tmp_path, step):
    """Three steps on each batch: also from between them, where the student has moved on."""

    def run(objective=ATEX):
        objective = partial(objective, follow_student=True)
        made = trainer(objective, kept_bytes=0)
        made.steps_per_batch = 3
        return made

    once = torch.rand(12, 6, generator=torch.Generator().manual_seed(0))
    batches = DataLoader(once, batch_size=5, shuffle=True)
    expected = run()
    expected.fit(batches, 2, show_progress=False)
    with pytest.raises(Interrupted):
        run(interrupt_at(step)).fit(batches, 2, checkpoints=Checkpoints(tmp_path, 1))
    resumed = run()
    resumed.fit(batches, 2, checkpoints=Checkpoints(tmp_path, 1), show_progress=False)
    assert same(resumed.weights(), expected.weights())


@pytest.mark.parametrize("kept_bytes", [0, 100, 2**20])
def test_kept_directions_resume_too(tmp_path, kept_bytes):
    once = torch.rand(12, 6, generator=torch.Generator().manual_seed(0))
    batches = DataLoader(once, batch_size=5, shuffle=True)

    def run(objective=ATEX):
        made = trainer(objective, kept_bytes=kept_bytes)
        made.objective.directions.n_samples = 3
        return made

    expected = run()
    expected.fit(batches, 3, show_progress=False)
    with pytest.raises(Interrupted):
        run(interrupt_at(11)).fit(batches, 3, checkpoints=Checkpoints(tmp_path, 1))
    resumed = run()
    resumed.fit(batches, 3, checkpoints=Checkpoints(tmp_path, 1), show_progress=False)
    assert same(resumed.weights(), expected.weights())


def test_a_finished_run_is_not_run_again(whole, tmp_path):
    fit(trainer(), tmp_path)
    again = trainer(interrupt_at(0))
    fit(again, tmp_path)
    assert same(again.weights(), whole.weights())
    assert again.history == whole.history


def test_worker_processes_resume_too(tmp_path):
    expected = fit(trainer(), loader=data(workers=1), epochs=2)
    with pytest.raises(Interrupted):
        fit(trainer(interrupt_at(9)), tmp_path, loader=data(workers=1), epochs=2)
    resumed = fit(trainer(), tmp_path, loader=data(workers=1), epochs=2)
    assert same(resumed.weights(), expected.weights())


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


# --- what can go wrong


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


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    fit(trainer(), tmp_path, epochs=1)
    other = Trainer(network(), CrossEntropy(), seed=1)
    with pytest.raises(ValueError, match=r"another run \(objective was ATEX.*seed was 0, is 1"):
        other.fit(data(), 1, checkpoints=tmp_path, show_progress=False)
    wider = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3))
    fewer = ATEXTrainer(wider, **DELTAS)
    with pytest.raises(ValueError, match="another run"):
        fewer.fit(data(), 1, checkpoints=tmp_path, show_progress=False)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    for content in (b"hello", None):
        path = tmp_path / "file"
        if content is None:
            torch.save({"model": {}}, path)
        else:
            path.write_bytes(content)
        digest = sha256(path.read_bytes()).hexdigest()[:16]
        path = path.rename(tmp_path / f"checkpoint-000001-step-1-{digest}.pt")
        with pytest.raises(ValueError, match=r"cannot be read|no checkpoint of captum_robust"):
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(bad, tmp_path):
    def objective(student, teacher, batch):
        with torch.no_grad():
            student[0].weight[0, 0] = bad
        return {"loss": 0 * student[4].bias.sum()}

    with pytest.raises(ValueError, match=r"NaN or Inf \(0.weight\), so no checkpoint"):
        Trainer(network(), objective).fit(
            data(), 1, checkpoints=Checkpoints(tmp_path, 1), show_progress=False
        )
    assert not list(tmp_path.iterdir())


def test_a_buffer_may_be_infinite(tmp_path):
    model = network()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    Trainer(model, CrossEntropy()).fit(data(), 1, checkpoints=tmp_path, show_progress=False)
    assert Checkpoints(tmp_path).files()


def test_another_teacher_is_another_run(tmp_path):
    fit(trainer(), tmp_path, epochs=1)
    other = trainer()
    with torch.no_grad():
        other.teacher[0].weight += 1
    with pytest.raises(ValueError, match="another run \\(teacher was"):
        fit(other, tmp_path)


def test_a_trainer_that_has_begun_does_not_write_into_the_folder_of_another(tmp_path):
    fit(trainer(), tmp_path, epochs=1)
    before = Checkpoints(tmp_path).files()
    begun = trainer()
    begun.fit(data(), 1, show_progress=False)
    with pytest.raises(ValueError, match="holds a run already, and this trainer has begun another"):
        begun.fit(data(), 2, checkpoints=tmp_path, show_progress=False)
    assert Checkpoints(tmp_path).files() == before


def test_a_second_call_goes_on_in_the_same_folder(whole, tmp_path):
    run = trainer()
    for epochs in (1, 3):
        fit(run, tmp_path, epochs=epochs)
    assert same(run.weights(), whole.weights())
    assert same(fit(trainer(), tmp_path).weights(), whole.weights())


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


def test_persistent_workers_cannot_resume(tmp_path):
    loader = DataLoader(Augmented(), batch_size=8, num_workers=1, persistent_workers=True)
    with pytest.raises(ValueError, match="persistent_workers=False"):
        fit(trainer(), tmp_path, loader=loader)


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
