"""Counts: added up, saved, read back, and finished by a run that was killed ten times."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from captum.attr import Saliency
from torch import nn

import captum_robust
from captum_robust.attr import BetaSmoothing, SparsifiedSmoothing
from captum_robust.certificates import SmoothingCounts, collect_counts

SCRIPT = Path(__file__).with_name("killed_count.py")
# The package that is tested here, also where another copy of it is installed.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(captum_robust.__file__).parents[1])}


def network(n_outputs=3, scale=1.0):
    model = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, n_outputs))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale, generator=generator)
    return model


def points(n=3):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(2))


def count(n_samples=60, model=None, kept=0.34, **kwargs):
    smoothing = SparsifiedSmoothing(Saliency(model or network()), kept=kept)
    return collect_counts(smoothing, points(), n_samples, internal_batch_size=12, **kwargs)


def assert_same(a, b):
    assert torch.equal(a.marks, b.marks)
    assert (a.agreements is None) == (b.agreements is None)
    assert a.agreements is None or torch.equal(a.agreements, b.agreements)
    for name in ("ranges", "shapes", "n_kept", "stdev", "fingerprint", "is_tuple"):
        assert getattr(a, name) == getattr(b, name), name


# --- What is counted.


def test_counts_are_those_of_the_explanation():
    model, x = network(), points()
    counts = count(60, model, seed=9)
    assert counts.n_samples == 60
    assert counts.n_kept == 2
    assert (counts.marks.sum(1) == 120).all()
    target = model(x).argmax(1)
    total = sum(
        part.marks[0]
        for part in SparsifiedSmoothing(Saliency(model), kept=0.34).count_marks(
            x, range(60), 9, 12, target=target
        )
    )
    assert torch.equal(counts.marks, total)
    torch.testing.assert_close(counts.shares(), total / 60, check_dtype=False)


def test_predictions_are_counted_in_the_same_passes():
    rows, predictions = [], []

    class Heard(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = network()

        def forward(self, x):
            output = self.model(x)
            rows.append(len(x))
            predictions.append(output.argmax(1))
            return output

    counts = count(40, Heard(), seed=0)
    assert sum(rows) == 3 + 3 * 40  # the clean examples, then one pass for each copy
    clean, copies = predictions[0], [p.unflatten(0, (3, -1)) for p in predictions[1:]]
    want = (torch.cat(copies, dim=1) == clean.unsqueeze(1)).sum(1)
    assert torch.equal(counts.agreements, want)


def test_the_target_and_one_output():
    given = count(20, seed=0, target=1)
    assert not torch.equal(given.marks, count(20, seed=0, target=2).marks)
    single = count(20, network(1), seed=0)
    assert single.agreements is None
    from captum_robust.outputs import Binary

    assert count(20, network(1), seed=0, output=Binary()).agreements is not None


# --- Sums.


def test_two_runs_add_up_to_one_bit_by_bit():
    whole = count(64, seed=4)
    first, second = count(24, seed=4), count(40, seed=4, first_copy=24)
    assert_same(first + second, whole)
    assert_same(second + first, whole)
    thirds = [count(n, seed=4, first_copy=at) for n, at in ((4, 0), (20, 4), (40, 24))]
    assert_same((thirds[0] + thirds[1]) + thirds[2], thirds[0] + (thirds[1] + thirds[2]))
    assert_same(thirds[2] + thirds[0] + thirds[1], whole)
    assert whole.ranges == ((4, 0, 64),)
    other = whole + count(10, seed=5)
    assert other.ranges == ((4, 0, 64), (5, 0, 10))
    assert other.n_samples == 74


def test_what_does_not_belong_together_is_not_added():
    counts = count(20, seed=4)
    with pytest.raises(ValueError, match=r"copies 12 to 19 of seed 4 are in both"):
        counts + count(20, seed=4, first_copy=12)
    for other in (
        count(20, network(scale=0.9), seed=5),
        count(20, kept=0.5, seed=5),
        count(20, seed=5, target=0),
    ):
        with pytest.raises(ValueError, match="another model, explanation, setting"):
            counts + other
    with pytest.raises(TypeError):
        counts + 1


# --- Files.


def test_seeds_that_draw_the_same_copies_are_not_added():
    """Copy 1,595 of seed 150 begins from the state of copy 0 of seed 933."""
    one = count(8, seed=933)
    with pytest.raises(ValueError, match="seeds 150 and 933 draw some of the same copies"):
        one + count(8, seed=150, first_copy=1598)
    assert (one + count(8, seed=150, first_copy=1603)).n_samples == 16


@pytest.mark.parametrize(
    "other",
    [
        lambda model: BetaSmoothing(Saliency(model), 50.0),
        lambda model: BetaSmoothing(Saliency(with_activation(model, nn.LeakyReLU())), 2.0),
    ],
    ids=["another beta", "another activation"],
)
def test_explanations_with_other_settings_are_not_added(other):
    def of(explanation):
        return collect_counts(SparsifiedSmoothing(explanation, 0.34), points(), 4, seed=0)

    model = with_activation(network(), nn.ReLU())
    of_model = of(BetaSmoothing(Saliency(model), 2.0))
    with pytest.raises(ValueError, match="another model, explanation, setting"):
        of_model + of(other(model))


def with_activation(model, activation):
    model[1] = activation
    return model


def test_saved_and_read_back(tmp_path):
    counts = count(20, seed=2**63)
    counts.save(tmp_path / "counts.npz")
    assert_same(SmoothingCounts.load(tmp_path / "counts.npz"), counts)
    assert [p.name for p in tmp_path.iterdir()] == ["counts.npz"]
    pair = collect_counts(Saliency(lambda x, y: (x * y).sum(1)), (points(), points()), 5, seed=0)
    pair.save(tmp_path / "pair.npz")
    read = SmoothingCounts.load(tmp_path / "pair.npz")
    assert_same(read, pair)
    assert [s.shape for s in read.shares()] == [(3, 6), (3, 6)]


def test_a_run_goes_on_from_its_own_file(tmp_path):
    file = tmp_path / "counts.npz"
    count(24, seed=7, file=file)
    calls = []
    model = network()
    model.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    counts = count(60, model, file=file)  # the seed is that of the file
    assert sum(calls) == 3 + 3 * 36
    assert_same(counts, count(60, seed=7))
    assert_same(SmoothingCounts.load(file), counts)
    calls.clear()
    assert_same(count(60, model, file=file), counts)
    assert sum(calls) == 3


def test_the_file_of_another_run_is_refused(tmp_path):
    file = tmp_path / "counts.npz"
    count(24, seed=7, file=file)
    with pytest.raises(ValueError, match="another model, explanation, setting"):
        count(24, seed=7, file=file, kept=0.5)
    for other in ({"seed": 8}, {"first_copy": 4}, {"n_samples": 12}):
        with pytest.raises(ValueError, match="holds other copies"):
            count(**{"n_samples": 24, **other}, file=file)


def run_until_killed(file, seconds):
    command = [sys.executable, str(SCRIPT), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as run:
        assert run.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        run.kill()


@pytest.mark.slow
def test_killed_ten_times_at_random_the_counts_are_the_same(tmp_path):
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        from killed_count import count as count_all
    finally:
        sys.path.remove(str(SCRIPT.parent))
    file, moments = tmp_path / "counts.npz", random.Random(0)
    reached = []
    for _ in range(10):
        run_until_killed(file, moments.uniform(0.0, 0.2))
        reached.append(SmoothingCounts.load(file).n_samples if file.exists() else 0)
    assert reached == sorted(reached)
    assert 0 < reached[-1] < 200
    command = [sys.executable, str(SCRIPT), str(file)]
    subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
    assert_same(SmoothingCounts.load(file), count_all())


def test_stopped_anywhere_the_counts_are_the_same(tmp_path):
    """Exceptions in place of kills, ten times at random: the same, in one process."""
    file, moments = tmp_path / "counts.npz", random.Random(1)

    class Stop(Exception):
        pass

    def stopping(after):
        model, calls = network(), []

        def hook(*args):
            calls.append(1)
            if len(calls) > after:
                raise Stop

        model.register_forward_hook(hook)
        return model

    for _ in range(10):
        with pytest.raises(Stop):
            count(400, stopping(moments.randint(1, 8)), seed=3, file=file, save_every=0.0)
    read = SmoothingCounts.load(file)
    assert 0 < read.n_samples < 400
    assert_same(count(400, file=file), count(400, seed=3))
