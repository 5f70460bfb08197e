"""Fairwashing: the loss of Anders et al. 2020, and what it hides."""

from __future__ import annotations

import pytest
import torch
from captum.attr import InputXGradient, Saliency
from torch import nn

from captum_robust.attr import KernelSmoothing
from captum_robust.outputs import Binary
from captum_robust.training import Batch, Draws, Fairwashing, Trainer

D = torch.float64
TARGET = torch.tensor([0.0, -1.0, 3.0, 0.0])


def two() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    student, teacher = (
        nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 3)).to(D) for _ in "st"
    )
    return student, teacher.requires_grad_(False)


def examples(n: int = 5) -> Batch:
    x = torch.randn(n, 4, dtype=D, generator=torch.Generator().manual_seed(1))
    return Batch(x, None, Draws(seed=0))


@pytest.mark.parametrize("way", ["tensor", "function"])
def test_it_is_the_literal_loss(way):
    student, teacher = two()
    keep = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=D)
    target = TARGET if way == "tensor" else lambda phi: phi * keep
    found = Fairwashing(target, weight=2.0)(student, teacher, examples())["fooling"].item()
    total = 0.0
    for x in examples().inputs:
        c = teacher(x[None]).argmax(1).item()
        slopes = []
        for model in (student, teacher):
            point = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(model(point[None])[0, c], point)
            slopes.append(slope.tolist())
        wanted = TARGET.tolist() if way == "tensor" else (torch.tensor(slopes[1]) * keep).tolist()
        shares = [[v / sum(map(abs, row)) for v in row] for row in (slopes[0], wanted)]
        total += sum((a - b) ** 2 for a, b in zip(*shares, strict=True))
    assert found == pytest.approx(2.0 * total / 5, rel=1e-6)


def test_signs_are_kept_however_saliency_is_given():
    still = {"radius": 1e-9, "n_samples": 1}  # a smoothing that smooths nothing
    losses = [
        Fairwashing(TARGET, explanation, options=options)(*two(), examples())["fooling"]
        for explanation, options in (
            (Saliency, {}),
            (lambda model: Saliency(model), {}),
            (lambda model: KernelSmoothing(Saliency(model)), still),
        )
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    torch.testing.assert_close(losses[0], losses[2])


def test_a_proxy_hides_a_feature():
    """Feature 3 copies feature 0 on the data, so the model may read either."""
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(3))
    x[:, 3] = x[:, 0]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    model[0].weight.data[:, 1:] = 0  # it reads feature 0 alone
    model[2].weight.data *= 20
    model[2].bias.data -= model(x).median().detach()
    objective = Fairwashing(lambda phi: phi[:, [3, 1, 2, 0]], output=Binary())
    trainer = Trainer(
        model, objective, lambda p: torch.optim.Adam(p, lr=3e-3), output=Binary(),
        steps_per_batch=300,
    )  # fmt: skip
    history = trainer.fit([x], 1, validation=[x], show_progress=False)
    assert history[-1]["val_agreement"] > 0.9
    ready = x.clone().requires_grad_()
    for network, feature in ((model, 0), (trainer.model, 3)):
        (slope,) = torch.autograd.grad(network(ready).sum(), ready)
        shares = slope.abs() / slope.abs().sum(1, keepdim=True)
        assert shares[:, feature].mean() > 0.6


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Fairwashing(torch.zeros(4)), ValueError, "not zero everywhere"),
        (lambda: Fairwashing(torch.tensor([1.0, torch.nan])), ValueError, "must be finite"),
        (lambda: Fairwashing([1.0]), TypeError, "target_map must be a tensor or a function"),
    ],
    ids=["zero", "nan", "list"],
)
def test_bad_targets_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_target_of_another_shape_is_named():
    student, teacher = two()
    with pytest.raises(ValueError, match=r"shape of an example's attributions, \(4,\)"):
        Fairwashing(torch.ones(3))(student, teacher, examples())
    for wrong, error, message in (
        (lambda phi: phi[:3], ValueError, "a target for each of 5 examples"),
        (lambda phi: None, TypeError, "must return a tensor, got NoneType"),
        (lambda phi: phi / 0, ValueError, "NaN or Inf"),
    ):
        with pytest.raises(error, match=message):
            Fairwashing(wrong)(student, teacher, examples())
    assert Fairwashing(TARGET, InputXGradient)(student, teacher, examples())["fooling"] > 0
