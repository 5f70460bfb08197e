"""What trainers refuse, in which words, and that each remedy works when it is followed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from captum.attr import Saliency
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

from captum_robust.outputs import Binary, Regression
from captum_robust.training import (
    ATEX,
    AdversarialExamples,
    ATEXTrainer,
    CosineStability,
    CrossEntropy,
    Distillation,
    EarlyStopping,
    GradientPenalty,
    Imitation,
    NeighbourhoodPoints,
    PerpendicularSearch,
    SmoothGradDirections,
    TopKFooling,
    Trainer,
)
from tests.training.runs import DELTAS, sgd

X, Y = torch.rand(6, 4), torch.arange(6) % 3
LOADER = [(X, Y)]
POINTS = NeighbourhoodPoints(0.1, 0.1)


def linear(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, outputs)


def one(objective: Any = None, outputs: int = 3, **options: Any) -> Trainer:
    return Trainer(linear(outputs), Distillation() if objective is None else objective, **options)


def fit(loader: Any, trainer: Trainer | None = None, **options: Any) -> list:
    return (trainer or one()).fit(loader, options.pop("epochs", 1), show_progress=False, **options)


MADE = [
    ("a class of objectives", lambda: one(Distillation), TypeError, r"Pass an object such as"),
    ("no objective", lambda: one("distil"), TypeError, "objective must be a function, got str"),
    ("scheduler", lambda: one(scheduler=StepLR), TypeError, "scheduler=lambda optimizer"),
    ("unpack", lambda: one(unpack="inputs"), TypeError, "unpack=lambda batch"),
    ("measure", lambda: one(measures={"m": 0.5}), TypeError, "measures: 'm' must be a function"),
    ("measure class", lambda: one(measures={"m": CosineStability}), TypeError, "'m' must be"),
    ("steps", lambda: one(steps_per_batch=0), ValueError, "steps_per_batch must be at least 1"),
    ("temperature", lambda: Distillation(0.0), ValueError, "temperature must be positive"),
    ("imitation", lambda: Imitation(math.nan), ValueError, "temperature must be positive"),
    ("points", lambda: ATEX(0.1), TypeError, r"points must be NeighbourhoodPoints\(delta1"),
    ("search", lambda: ATEX(POINTS, search=1), TypeError, r"PerpendicularSearch\(steps\)"),
    ("search steps", lambda: PerpendicularSearch(0), ValueError, "search must be at least 1"),
    ("alpha", lambda: ATEX(POINTS, alpha=0.0), ValueError, "alpha must be positive"),
    ("directions", lambda: ATEX(POINTS, directions=3), TypeError, "must be a function of model"),
    ("n_samples", lambda: SmoothGradDirections(n_samples=0), ValueError, "n_samples must be"),
    ("stdev", lambda: SmoothGradDirections(stdev=-1.0), ValueError, "stdev must be positive"),
    ("kept", lambda: SmoothGradDirections(kept_bytes=-1), ValueError, "kept_bytes must be 0"),
    ("radius", lambda: CosineStability(radius=0.0), ValueError, "radius must be positive"),
    ("monitor", lambda: EarlyStopping(3), TypeError, r"EarlyStopping\(.val_stability.\)"),
    ("patience", lambda: EarlyStopping("x", patience=0), ValueError, "patience must be"),
    ("min_delta", lambda: EarlyStopping("x", min_delta=-1), ValueError, "min_delta must be 0"),
    ("attack", lambda: AdversarialExamples(3), TypeError, "torchattacks.FGSM"),
    ("attack weight", lambda: AdversarialExamples(len, 0), ValueError, "weight must be positive"),
    ("delta", lambda: GradientPenalty(0.0), ValueError, "delta must be positive"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "error", "message"), [m[1:] for m in MADE], ids=[m[0] for m in MADE]
)
def test_what_is_made_wrongly_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


class Two(nn.Module):
    """Takes a mask beside its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()

    def forward(self, x, mask):
        return self.linear(x * mask)


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1)

    def forward(self, x):
        return {"out": self.conv(x)}


class Pooled(nn.Module):
    """The remedy: one row per example."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)["out"].flatten(2).mean(2)


class Embedded(nn.Module):
    """A text: tokens are embedded outside, so that what is moved is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, embeddings, tokens):
        kept = (tokens > 0).unsqueeze(2)
        return self.head((embeddings * kept).sum(1))


PICTURES = torch.rand(4, 1, 3, 3)
TOKENS = torch.randint(0, 7, (4, 6), generator=torch.Generator().manual_seed(0))
FOLLOWED = {
    "a dictionary: unpack=": (
        lambda: fit([{"inputs": X, "labels": Y}]),
        r"unpack=lambda batch: \(batch\['inputs'\], batch\['labels'\]\)",
        lambda: fit([{"inputs": X, "labels": Y}], one(unpack=lambda b: (b["inputs"], b["labels"]))),
    ),
    "tokens: embeddings and the integers": (
        lambda: fit([TOKENS]),
        r"give embeddings.*\(\(inputs, integers\), labels\)",
        lambda: fit(
            [((torch.rand(4, 6, 5), TOKENS), torch.arange(4) % 3)],
            Trainer(Embedded(), Distillation()),
        ),
    ),
    "what the model takes beside the inputs": (
        lambda: fit([(X, Y)], Trainer(Two(), Distillation())), r"\(\(inputs, more\), labels\)",
        lambda: fit([((X, torch.ones(6, 4)), Y)], Trainer(Two(), Distillation())),
    ),
    "what the model takes beside the inputs: unpack=": (
        lambda: fit([(X, Y)], ATEXTrainer(Two(), **DELTAS)), "or make it so: unpack=lambda batch",
        lambda: fit(
            [{"inputs": X, "more": torch.ones(6, 4), "labels": Y}],
            ATEXTrainer(
                Two(), **DELTAS, unpack=lambda b: ((b["inputs"], b["more"]), b["labels"])
            ),
        ),
    ),
    "rows of another number: expand": (
        lambda: fit([((X, torch.ones(1, 4)), Y)], Trainer(Two(), Distillation())),
        r"argument\.expand\(6, \.\.\.\)",
        lambda: fit(
            [((X, torch.ones(1, 4).expand(6, 4)), Y)], ATEXTrainer(Two(), **DELTAS)
        ),
    ),
    "one output: Binary": (
        lambda: fit(LOADER, one(outputs=1)),
        r"output=outputs\.Binary\(\)",
        lambda: fit(LOADER, one(Distillation(output=Binary()), outputs=1)),
    ),
    "one output: Regression": (
        lambda: fit(LOADER, one(outputs=1)),
        r"outputs\.Regression\(tolerance=",
        lambda: fit(LOADER, one(Distillation(output=Regression(tolerance=0.1)), outputs=1)),
    ),
    "a map of classes: its mean": (
        lambda: fit([PICTURES], Trainer(Segmenter(), Distillation())),
        r"output\.flatten\(2\)\.mean\(2\)",
        lambda: fit([PICTURES], Trainer(Pooled(Segmenter()), Distillation())),
    ),
    "a tensor: a list of batches": (
        lambda: fit(X), r"a list of batches: \[inputs\]", lambda: fit([X]),
    ),
    "half precision: float()": (
        lambda: Trainer(linear().half(), Distillation()),
        r"Train model\.float\(\)",
        lambda: Trainer(linear().half().float(), Distillation()),
    ),
    "frozen: requires_grad_": (
        lambda: Trainer(linear().requires_grad_(False), Distillation()),
        r"model\.requires_grad_\(True\)",
        lambda: Trainer(linear().requires_grad_(False).requires_grad_(True), Distillation()),
    ),
    "both deltas 0: Distillation": (
        lambda: ATEXTrainer(linear(), delta1=0, delta2=0),
        r"Trainer\(model, Distillation\(\)\)",
        lambda: Trainer(linear(), Distillation()),
    ),
    "another optimiser: a function": (
        lambda: Trainer(linear(), Distillation(), sgd(linear().parameters())),
        r"lambda parameters: Adam\(parameters\)",
        lambda: Trainer(linear(), Distillation(), sgd),
    ),
    "no labels": (
        lambda: fit([X], one(CrossEntropy())),
        r"must yield \(inputs, labels\) for CrossEntropy",
        lambda: fit(LOADER, one(CrossEntropy())),
    ),
    "monitor without validation": (
        lambda: fit(LOADER, callbacks=[EarlyStopping("val_agreement")]),
        r"needs validation=",
        lambda: fit(LOADER, callbacks=[EarlyStopping("val_agreement")], validation=LOADER),
    ),
    "student's directions: kept_bytes=0": (
        lambda: ATEX(POINTS, follow_student=True, directions=SmoothGradDirections()),
        r"SmoothGradDirections\(kept_bytes=0\)",
        lambda: ATEX(POINTS, follow_student=True, directions=SmoothGradDirections(kept_bytes=0)),
    ),
    "a part that is no scalar: the mean": (
        lambda: fit(LOADER, one(lambda s, t, b: {"part": s(b.inputs)})),
        "Take the mean over the batch",
        lambda: fit(LOADER, one(lambda s, t, b: {"part": s(b.inputs).mean()})),
    ),
    "an explanation of another model": (
        lambda: TopKFooling(2, Saliency(linear())),
        "explanation=Saliency",
        lambda: fit(LOADER, one(TopKFooling(2, explanation=Saliency))),
    ),
    "persistent workers": (
        lambda: fit(
            DataLoader(X, num_workers=1, persistent_workers=True), checkpoints="nowhere"
        ),
        "persistent_workers=False",
        lambda: fit(DataLoader(X, batch_size=3)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "remedy", "right"), FOLLOWED.values(), ids=FOLLOWED)
def test_a_remedy_works_when_it_is_followed(wrong, remedy, right):
    with pytest.raises((TypeError, ValueError), match=remedy):
        wrong()
    assert right()
