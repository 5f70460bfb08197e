"""What a message of a certificate advises works when it is followed."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_robust.attr import SparsifiedSmoothing
from captum_robust.certificates import (
    ManipulationDetector,
    SmoothingCounts,
    certify_gradient_top_k,
    certify_top_k,
    collect_counts,
)
from tests.helpers import follow, rng

X = torch.rand(2, 1, 4, 4, generator=rng())
NET = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
SMOOTH = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
MANY = torch.rand(40, 1, 4, 4, generator=rng(1))


class Whole(nn.Module):
    def forward(self, x):
        return NET(x)


def smoothing(model=NET):
    return SparsifiedSmoothing(Saliency(model), kept=0.25)


def count(**more):
    arguments = {"n_samples": 8, "target": 0, "seed": 4, **more}
    return collect_counts(smoothing(), X, **arguments)


def overlap(explanation, *inputs, **more):
    return certify_top_k(explanation, *inputs, radii=[0.1], k=4, **more).overlap


def by_sampling(model):
    return overlap(smoothing(model), X, target=0, n_samples=50, seed=0)


def detector():
    return ManipulationDetector(Saliency(NET))


def enclosed(model):
    return certify_gradient_top_k(model, X, [0.01], 4, target=torch.tensor([0, 0]))


FOLLOWED = {
    "counts and examples: the counts alone": (
        lambda: overlap(count(), X), "Leave the inputs out", lambda: overlap(count()),
    ),
    "no examples: give them": (
        lambda: overlap(smoothing()), "give the examples to explain",
        lambda: overlap(smoothing(), X, target=0, n_samples=50, seed=0),
    ),
    "no examples: counts": (
        lambda: overlap(smoothing()), "or counts instead of both", lambda: overlap(count()),
    ),
    "the same copies: others": (
        lambda: count() + count(first_copy=4), "Give each run copies of its own",
        lambda: (count() + count(first_copy=8)).shares(),
    ),
    "the same copies: another seed": (
        lambda: count() + count(first_copy=4), "or another seed",
        lambda: (count() + count(seed=5)).shares(),
    ),
    "a tanh: by sampling": (
        lambda: enclosed(SMOOTH), r"certified by sampling: certify_top_k",
        lambda: by_sampling(SMOOTH),
    ),
    "no sequence of layers: by sampling": (
        lambda: enclosed(Whole()), r"certified by sampling: certify_top_k",
        lambda: by_sampling(Whole()),
    ),
    "a detector that knows nothing": (
        lambda: detector().p_values(X), r"Call fit\(images\) first",
        lambda: detector().fit(MANY).p_values(X),
    ),
    "few clean images: more": (
        lambda: detector().fit(X), "give at least", lambda: detector().fit(MANY).p_values(X),
    ),
    "a model in place of an explanation": (
        lambda: overlap(NET, X), r"Saliency\(model\)",
        lambda: overlap(Saliency(NET), X, target=0, n_samples=50, seed=0),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "remedy", "right"), FOLLOWED.values(), ids=FOLLOWED)
def test_a_remedy_works_when_it_is_followed(wrong, remedy, right):
    assert bool(torch.isfinite(follow(wrong, remedy, right)).all())


def test_the_remedies_of_a_file(tmp_path):
    file = tmp_path / "counts.npz"
    count(file=file)
    with pytest.raises(ValueError, match="Give another path, or load and add them"):
        count(file=file, seed=5)
    assert count(file=tmp_path / "other.npz", seed=5).n_samples == 8
    added = SmoothingCounts.load(file) + count(seed=5)
    assert added.n_samples == 16
