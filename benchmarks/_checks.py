"""A check of each column of the compatibility table against plain PyTorch, to 1e-5.

Each raises AssertionError where the library gives another number, and what the library raises.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from itertools import product

import torch
from _architectures import Case
from _oracles import GuidedRectifiers, ProportionalRelevance, SmoothRectifiers
from captum.attr import Saliency
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from captum_robust import attacks, attr, metrics, perturbations, training
from captum_robust._utils.forward import logits_of

TOLERANCE = 1e-5
_POSITIONS = 3  # of a square along each side


def double(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    """The model and its inputs in double precision, and the predicted classes."""
    model, inputs = case.model.double().requires_grad_(False), case.inputs.double()
    with torch.no_grad():
        target = logits_of(model(inputs)).argmax(1)
    return model, inputs, target


def explained(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """The outputs that are explained, (N,), by plain PyTorch."""
    return logits_of(model(inputs)).gather(1, target[:, None])[:, 0]


def gradient(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """The plain gradient."""
    x = inputs.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(explained(model, x, target).sum(), x)
    return found


def direction(inputs: Tensor) -> Tensor:
    """A random tensor of length 1."""
    generator = torch.Generator().manual_seed(2)
    found = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
    return found / found.norm()


def close(got: Tensor, wanted: Tensor, what: str) -> None:
    """Raise unless the largest difference is below 1e-5 of the largest wanted value."""
    scale = wanted.abs().max().clamp(min=torch.finfo(wanted.dtype).tiny)
    error = ((got - wanted).abs().max() / scale).item()
    if not error < TOLERANCE:
        raise AssertionError(f"{what} is off by {error:.1e}")


def beta_smoothing(case: Case) -> None:
    """It is the gradient of the network with softplus for rectifiers."""
    model, inputs, target = double(case)
    found = attr.BetaSmoothing(Saliency(model), beta=2.0).attribute(
        inputs, target=target, abs=False
    )
    with SmoothRectifiers(2.0):
        wanted = gradient(model, inputs, target)
    close(found, wanted, "the smoothed gradient")


def differentiable(case: Case) -> None:
    """The derivative of that gradient is that of plain double backpropagation."""
    model, inputs, target = double(case)
    weights = direction(inputs)
    x = inputs.clone().requires_grad_()
    explain = attr.differentiable(attr.BetaSmoothedGradient(model, beta=2.0))
    (found,) = torch.autograd.grad((explain(x, target=target) * weights).sum(), x)
    x = inputs.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH), SmoothRectifiers(2.0):
        total = explained(model, x, target).sum()
    (first,) = torch.autograd.grad(total, x, create_graph=True)
    (wanted,) = torch.autograd.grad((first * weights).sum(), x)
    close(found, wanted, "the second derivative")


def relevance_propagation(case: Case) -> None:
    """By the epsilon rule it is gradient times input of a network of the same values."""
    model, inputs, target = double(case)
    low, high = case.input_range or (None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the share that arrives: see the guide
        by_default = attr.RelevancePropagation(model, low, high).attribute(inputs, target=target)
        by_rule = attr.RelevancePropagation(model, None, None, rule=attr.EpsilonRule(1e-40))
        found = by_rule.attribute(inputs, target=target)
    if by_default.shape != inputs.shape or not bool(torch.isfinite(by_default).all()):
        raise AssertionError("not finite")
    x = inputs.clone().requires_grad_()
    with ProportionalRelevance():
        output = explained(model, x, target)
    close(output.detach(), explained(model, inputs, target).detach(), "the plain network")
    (slopes,) = torch.autograd.grad((output / output.detach()).sum(), x)
    close(found, (slopes * x).detach(), "the relevance")


def guided_backprop(case: Case) -> None:
    """It is the gradient with a hook on every rectifier."""
    model, inputs, target = double(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where there is no rectifier
        found = attr.GuidedBackprop(model).attribute(inputs, target=target)
    with GuidedRectifiers():
        wanted = gradient(model, inputs, target)
    close(found, wanted, "the guided gradient")


def top_k_attack(case: Case) -> None:
    """Prediction and bound are kept, and the relevance that it reports is that of the gradient."""
    model, inputs, target = double(case)
    attack = attacks.GhorbaniTopK(
        model, eps=0.05, alpha=0.01, steps=3, k=3, input_range=case.input_range,
        channel_dim=case.channel_dim,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three steps may find nothing
        moved = attack(inputs)
    if not torch.equal(logits_of(model(moved)).argmax(1), target):
        raise AssertionError("the prediction changed")
    if (moved - inputs).abs().max() > 0.05 or attack.report is None:
        raise AssertionError("the bound is not kept")
    before, after = (_shares(model, x, target, case.channel_dim) for x in (inputs, moved))
    top = before.topk(3, dim=1).indices
    close(attack.report.measure_before, before.gather(1, top).sum(1), "the relevance before")
    close(attack.report.measure, after.gather(1, top).sum(1), "the relevance after")


def _shares(model: nn.Module, inputs: Tensor, target: Tensor, channel_dim: int) -> Tensor:
    maps = gradient(model, inputs, target).abs()
    maps = maps.sum(channel_dim) if inputs.dim() > 2 else maps
    return maps.flatten(1) / maps.flatten(1).sum(1, keepdim=True)


def square(case: Case) -> None:
    """It solves the normal equations of all squares of one size; in a table, of all features."""
    model, inputs, target = double(case)
    if inputs.dim() == 2:
        explanation = attr.InfidelityOptimal(model, perturbations.FeatureRemoval())
        removed = torch.eye(inputs.shape[1], dtype=torch.bool)
    else:
        places = [d for d in range(1, inputs.dim()) if d != case.channel_dim % inputs.dim()]
        side = max(1, min(inputs.shape[d] for d in places) - _POSITIONS + 1)
        explanation = attr.Square(model, sizes=[side], channel_dim=case.channel_dim)
        removed = _squares(inputs, places, side)
    found = explanation.attribute(inputs, target=target)
    with torch.no_grad():
        clean = explained(model, inputs, target)
        rows = [
            explained(model, torch.where(z.view(inputs.shape[1:]), 0.0, inputs), target)
            for z in removed
        ]
    masks = removed.to(inputs)
    lost = clean - torch.stack(rows)
    close(masks.T @ (masks @ found.flatten(1).T), masks.T @ lost, "the normal equations")


def _squares(inputs: Tensor, places: list[int], side: int) -> Tensor:
    """Every square of a side, (squares, features)."""
    found = []
    for corner in product(*[range(inputs.shape[d] - side + 1) for d in places]):
        mask = torch.zeros(inputs.shape[1:], dtype=torch.bool)
        part: list[slice] = [slice(None)] * mask.dim()
        for d, start in zip(places, corner, strict=True):
            part[d - 1] = slice(start, start + side)
        mask[tuple(part)] = True
        found.append(mask.flatten())
    return torch.stack(found)


def infidelity(case: Case) -> None:
    """The number of the literal formula on the same draws."""
    model, inputs, target = double(case)
    removal = perturbations.GaussianBaseline(0.2)
    attributions = direction(inputs)
    found = metrics.infidelity(
        model, removal, inputs, attributions, target=target, n_perturb_samples=4,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    stream = removal.stream(perturbations.Points.of(inputs), torch.Generator().manual_seed(0))
    (multipliers,), (moved,) = stream.take(4)
    with torch.no_grad():
        clean = explained(model, inputs, target)
        after = torch.stack([explained(model, x, target) for x in moved.unbind(1)], dim=1)
    products = (multipliers * attributions.unsqueeze(1)).flatten(2).sum(2)
    close(found, (products - (clean[:, None] - after)).square().mean(1), "infidelity")


class _Recorded(training.NeighbourhoodPoints):
    """Points that can be looked at afterwards."""

    def draw(
        self, inputs: Tensor, directions: Tensor, draws: training.Draws
    ) -> tuple[Tensor, Tensor]:
        """As the base class does."""
        self.last = super().draw(inputs, directions, draws)
        return self.last


def atex(case: Case) -> None:
    """One step moves the weights as the literal loss says, in plain PyTorch, on the same points."""
    model, inputs, _ = double(case)
    points = _Recorded(0.05, 0.05, n_perpendicular=2)
    rate = 1e6  # a small step would be lost in the digits of the weights
    objective = training.ATEX(points, loss=training.Imitation(temperature=4.0))
    model.requires_grad_(True)
    objective.evaluation_mode = True  # batch statistics and dropout are not part of the formula
    weights = copy.deepcopy(dict(model.named_parameters()))
    trainer = training.Trainer(model, objective, lambda p: torch.optim.SGD(p, rate), measures={})
    trainer.fit([inputs], epochs=1, show_progress=False)
    parallel, beside = points.last

    student = copy.deepcopy(model)
    loss = _divergence(student, inputs, model, inputs).mean()
    for x_p in beside[:, 0].unbind(1):
        loss = loss + _divergence(student, x_p, model, parallel[:, 0]).mean()
    names = [name for name, p in student.named_parameters() if p.requires_grad]
    learned = [p for p in student.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(loss, learned, allow_unused=True)
    got, wanted = [], []
    trained = dict(trainer.model.named_parameters())
    for name, found in zip(names, slopes, strict=True):
        got.append((trained[name] - weights[name]).flatten())
        wanted.append(torch.zeros_like(got[-1]) if found is None else -rate * found.flatten())
    close(torch.cat(got).detach(), torch.cat(wanted), "the step")
    if any(not torch.equal(weights[name], p) for name, p in model.named_parameters()):
        raise AssertionError("the model changed")


def _divergence(student: nn.Module, given: Tensor, teacher: nn.Module, at: Tensor) -> Tensor:
    with torch.no_grad():
        wanted = (logits_of(teacher(at)) / 4.0).softmax(1)
    logs = logits_of(student(given)).log_softmax(1)
    return (wanted * (wanted.log() - logs)).sum(1)


COLUMNS: dict[str, Callable[[Case], None]] = {
    "BetaSmoothing": beta_smoothing,
    "differentiable": differentiable,
    "LRP": relevance_propagation,
    "GuidedBackprop": guided_backprop,
    "GhorbaniTopK": top_k_attack,
    "Square": square,
    "infidelity": infidelity,
    "ATEX": atex,
}
