"""What a message of an explanation advises works when it is followed."""

from __future__ import annotations

import pytest
import torch
from captum.attr import (
    DeepLift,
    GuidedBackprop,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Saliency,
)
from torch import nn

from captum_robust import attr
from captum_robust.perturbations import BaselineShift, FeatureRemoval, Perturbation
from tests.attr._backward.networks import Hidden
from tests.helpers import follow, rng

X = torch.rand(3, 4, generator=rng(), dtype=torch.float64)
IMAGES = torch.rand(2, 1, 6, 6, generator=rng(1), dtype=torch.float64)


def drawn(model, seed=0):
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            draw = torch.randn(weight.shape, generator=rng(seed + number), dtype=torch.float64)
            weight.copy_(draw / 2)
    return model.double().eval()


NET = drawn(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
CNN = drawn(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)))
MAP = drawn(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()))
DATA = torch.randn(30, 4, generator=rng(2), dtype=torch.float64)


class Written(nn.Module):
    """A rectifier that the tape cannot record, and the same with torch's functions."""

    def __init__(self, with_torch):
        super().__init__()
        self.with_torch = with_torch

    def forward(self, x):
        return NET[2](torch.relu(NET[0](x)) if self.with_torch else Hidden.apply(NET[0](x)))


class InPlace(nn.Module):
    def __init__(self, cloned):
        super().__init__()
        self.cloned = cloned

    def forward(self, x):
        y = torch.relu(NET[0](x))
        seen = y.numpy() if not y.requires_grad else y.detach().numpy()
        y = y + torch.from_numpy(seen) * 0 if self.cloned else y
        return NET[2](y)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(2, 3, batch_first=True).double()

    def forward(self, x):
        return self.layer(x.view(len(x), 2, 2))[0][:, -1]


class Embedded(Perturbation):
    def shifts(self, points, n_samples, generator):
        return tuple(x.unsqueeze(1).expand(-1, n_samples, *x.shape[1:]) / 2 for x in points.inputs)


def gradient(x=X, model=NET, **more):
    return attr.BetaSmoothedGradient(model, 2.0).attribute(x, **{"target": 0, **more})


def lrp(model=NET, x=X, low=0.0, high=1.0, **settings):
    return attr.RelevancePropagation(model, low, high, **settings).attribute(x, target=0)


def optimal(perturbation=None, model=NET, x=X, **more):
    removal = FeatureRemoval() if perturbation is None else perturbation
    arguments = {"target": 0, "generator": rng(), **more}
    return attr.InfidelityOptimal(model, removal).attribute(x, **arguments)


def with_graph(method, x=X, **more):
    return attr.differentiable(method)(x.clone().requires_grad_(), target=0, **more).detach()


def smoothed(**more):
    return attr.KernelSmoothing(Saliency(NET)).attribute(
        X, **{"target": 0, "n_samples": 3, "generator": rng(), **more}
    )


def tangent(x=X, method=None, **more):
    explanation = Saliency(NET) if method is None else method
    return attr.TangentProjection(explanation, DATA, 2, **more).attribute(x, target=0)


def sparsified(model=CNN, x=IMAGES, channel_dim=1):
    explanation = attr.SparsifiedSmoothing(Saliency(model), channel_dim=channel_dim)
    return explanation.attribute(x, n_samples=5, target=0, generator=rng())


def patterns(model=NET):
    return attr.learn_patterns(model, [DATA])


def by_patterns(model=NET, learned=None, of=None):
    found = patterns() if learned is None else learned
    return attr.PatternAttribution(model, found, model=of).attribute(X, target=0)


def normed(removed):
    model = drawn(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3).double())))
    if removed:
        nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    return model


OTHER = drawn(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))

# name: (what is refused, words of the remedy, what the remedy gives)
FOLLOWED = {
    "a model in place of an explanation": (
        lambda: attr.BetaSmoothing(NET), r"Wrap the model: Saliency\(model\)",
        lambda: attr.BetaSmoothing(Saliency(NET)).attribute(X, target=0),
    ),
    "inputs of unequal length: expand": (
        lambda: gradient((X, X[:1]), lambda a, b: NET(a + b)), "Expand what is shared",
        lambda: gradient((X, X[:1].expand(3, -1)), lambda a, b: NET(a + b))[0],
    ),
    "inputs of unequal length: additional_forward_args": (
        lambda: gradient((X, X[:1]), lambda a, b: NET(a + b)), "as additional_forward_args",
        lambda: gradient(X, lambda a, b: NET(a + b), additional_forward_args=(X[:1],)),
    ),
    "whole numbers: float()": (
        lambda: gradient((9 * X).long()), r"convert numbers with \.float\(\)",
        lambda: gradient((9 * X).long().float().double()),
    ),
    "an input that is not used": (
        lambda: gradient((X, X), lambda a, b: NET(a)), "Leave it out",
        lambda: gradient(X, NET),
    ),
    "an input that is not used: additional_forward_args": (
        lambda: gradient((X, X), lambda a, b: NET(a)), "as additional_forward_args",
        lambda: gradient(X, lambda a, b: NET(a), additional_forward_args=(X,)),
    ),
    "no target": (
        lambda: gradient(target=None), "Pass target= the class", lambda: gradient(target=1),
    ),
    "a map of classes: one of its places": (
        lambda: gradient(IMAGES, MAP), r"target=\(class, row, column\)",
        lambda: gradient(IMAGES, MAP, target=(1, 2, 3)),
    ),
    "a map of classes: its mean": (
        lambda: gradient(IMAGES, MAP), r"model\(x\)\.flatten\(2\)\.mean\(2\)",
        lambda: gradient(IMAGES, lambda x: MAP(x).flatten(2).mean(2)),
    ),
    "a dictionary: a module that returns the tensor": (
        lambda: gradient(model=lambda x: {"scores": NET(x)}),
        r"Wrap the model in a torch\.nn\.Module",
        lambda: gradient(model=nn.Sequential(NET)),
    ),
    "an output without a gradient: FeatureAblation": (
        lambda: gradient(model=lambda x: NET(x).detach()), "or InfidelityOptimal",
        lambda: optimal(model=lambda x: NET(x).detach()),
    ),
    "no graph of DeepLift: gradient methods": (
        lambda: with_graph(DeepLift(NET)), "Use Saliency", lambda: with_graph(Saliency(NET)),
    ),
    "no graph of NoiseTunnel: KernelSmoothing": (
        lambda: with_graph(NoiseTunnel(Saliency(NET))), r"captum_robust\.attr\.KernelSmoothing",
        lambda: with_graph(attr.KernelSmoothing(Saliency(NET)), n_samples=2, generator=rng()),
    ),
    "no graph of Captum's GuidedBackprop: this library's": (
        lambda: with_graph(GuidedBackprop(NET)), r"captum_robust\.attr\.GuidedBackprop",
        lambda: with_graph(attr.GuidedBackprop(NET)),
    ),
    "a delta with a graph": (
        lambda: with_graph(IntegratedGradients(NET), return_convergence_delta=True),
        r"Call attribute\(\) for it",
        lambda: IntegratedGradients(NET).attribute(X, target=0, return_convergence_delta=True)[1],
    ),
    "smoothing of Captum's GuidedBackprop": (
        lambda: attr.BetaSmoothing(GuidedBackprop(NET)), "Use GuidedBackprop",
        lambda: attr.BetaSmoothing(attr.GuidedBackprop(NET)).attribute(X, target=0),
    ),
    "an unknown kernel": (
        lambda: smoothed(kernel="box"), "or a function",
        lambda: smoothed(kernel=lambda like, generator: torch.zeros_like(like)),
    ),
    "noise of another shape": (
        lambda: smoothed(kernel=lambda like, generator: torch.zeros(1, 1)),
        "Draw in the shape of its first argument",
        lambda: smoothed(kernel=lambda like, generator: torch.zeros(like.shape)),
    ),
    "two radii": (
        lambda: smoothed(radius=(0.1, 0.2)), "give one each", lambda: smoothed(radius=(0.1,)),
    ),
    "log_softmax: left out": (
        lambda: lrp(lambda x: NET(x).log_softmax(1)), "leave the log_softmax out", lrp,
    ),
    "no rule: layers that have one": (
        lambda: lrp(lambda x: torch.cumsum(NET(x), 1)), "Write it with layers that have a rule",
        lambda: lrp(lambda x: NET(x) @ torch.ones(3, 3, dtype=torch.float64).triu()),
    ),
    "no rule: the gradient": (
        lambda: lrp(lambda x: torch.cumsum(NET(x), 1)), "or use the gradient",
        lambda: gradient(model=lambda x: torch.cumsum(NET(x), 1)),
    ),
    "a recurrent layer: the gradient": (
        lambda: lrp(Recurrent()), "explain with the gradient",
        lambda: Saliency(Recurrent()).attribute(X.clone().requires_grad_(), target=0),
    ),
    "inputs out of the box: bounds": (
        lambda: lrp(x=3 * X), "as low=, high=", lambda: lrp(x=3 * X, high=3.0),
    ),
    "inputs out of the box: None": (
        lambda: lrp(x=3 * X), "None if they have none", lambda: lrp(x=3 * X, low=None, high=None),
    ),
    "one bound: both None": (
        lambda: lrp(low=None), r"or both be None \(unbounded\)",
        lambda: lrp(low=None, high=None),
    ),
    "a class in place of a rule": (
        lambda: lrp(rule=attr.GammaRule), r"such as GammaRule\(\)",
        lambda: lrp(rule=attr.GammaRule()),
    ),
    "a custom function: torch's": (
        lambda: lrp(Written(with_torch=False)), "Write it with torch's functions",
        lambda: lrp(Written(with_torch=True)),
    ),
    "no distribution": (
        lambda: attr.InfidelityOptimal(NET, "squares"), "Subclass Perturbation",
        lambda: optimal(Embedded(), n_samples=20),
    ),
    "features without groups": (
        lambda: optimal(BaselineShift(), feature_mask=torch.tensor([[0, 0, 1, 1]])),
        "or take FeatureRemoval",
        lambda: optimal(FeatureRemoval(), feature_mask=torch.tensor([[0, 0, 1, 1]])),
    ),
    "a feature mask of numbers": (
        lambda: optimal(feature_mask=torch.tensor([[0.0, 0.0, 1.0, 1.0]])), r"use \.long\(\)",
        lambda: optimal(feature_mask=torch.tensor([[0.0, 0.0, 1.0, 1.0]]).long()),
    ),
    "a feature mask of another shape": (
        lambda: optimal(feature_mask=torch.tensor([0, 0, 1])), "as many dimensions",
        lambda: optimal(feature_mask=torch.tensor([[0, 0, 1, 1]])),
    ),
    "a baseline of another shape": (
        lambda: optimal(baselines=torch.zeros(2, 4).double()), "one example to share",
        lambda: optimal(baselines=torch.zeros(1, 4).double()),
    ),
    "a closed form without a gradient": (
        lambda: attr.NoisyBaseline(lambda x: NET(x).detach()).attribute(X, target=0),
        "FeatureRemoval for instance", lambda: optimal(model=lambda x: NET(x).detach()),
    ),
    "an explanation of a layer: of the inputs": (
        lambda: tangent(method=LayerGradCam(NET, NET[0])), "an explanation of the inputs", tangent,
    ),
    "two inputs to project: additional_forward_args": (
        lambda: tangent((X, X)), "as additional_forward_args",
        lambda: attr.TangentProjection(Saliency(lambda a, b: NET(a + b)), DATA, 2).attribute(
            X, target=0, additional_forward_args=(X,)
        ),
    ),
    "each number a feature: None": (
        lambda: sparsified(channel_dim=7), "None makes each number a feature",
        lambda: sparsified(channel_dim=None),
    ),
    "patterns of another model": (
        lambda: by_patterns(OTHER), "Learn them from this very model",
        lambda: by_patterns(OTHER, patterns(OTHER)),
    ),
    "patterns without a module: model=": (
        lambda: by_patterns(lambda x: NET(x)), "name the module whose weights the patterns are for",
        lambda: by_patterns(lambda x: NET(x), of=NET),
    ),
    "a dictionary in place of patterns": (
        lambda: by_patterns(learned={}), "Learn them with learn_patterns", by_patterns,
    ),
    "weight norm: a plain weight": (
        lambda: patterns(normed(removed=False)), r"remove_parametrizations\(module, 'weight'\)",
        lambda: by_patterns(normed(removed=True), patterns(normed(removed=True))),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "remedy", "right"), FOLLOWED.values(), ids=FOLLOWED)
def test_a_remedy_works_when_it_is_followed(wrong, remedy, right):
    assert bool(torch.isfinite(follow(wrong, remedy, right)).all())


HELD_UP_BY_BIASES = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
with torch.no_grad():
    HELD_UP_BY_BIASES[0].weight.fill_(-0.1)
    HELD_UP_BY_BIASES[0].bias.fill_(1.0)
    HELD_UP_BY_BIASES[2].weight.fill_(0.5)

WARNED = {
    "relevance that is lost: GammaRule": (
        lambda: lrp(HELD_UP_BY_BIASES, low=None, high=None), r"give rule=GammaRule\(\)",
        lambda: lrp(HELD_UP_BY_BIASES, low=None, high=None, rule=attr.GammaRule()),
    ),
    "training mode: eval()": (
        lambda: gradient(model=nn.Sequential(NET, nn.Dropout()).train()), r"Call model\.eval\(\)",
        lambda: gradient(model=nn.Sequential(NET, nn.Dropout()).eval()),
    ),
    "features that never move: more samples": (
        lambda: optimal(Rare(), n_samples=2), "Give more samples",
        lambda: optimal(Rare(), n_samples=400),
    ),
    "patterns of weights that changed": (
        lambda: changed(again=False), "Learn the patterns again", lambda: changed(again=True),
    ),
}  # fmt: skip


class Rare(Perturbation):
    """One random feature at a time, as no class of the package."""

    def shifts(self, points, n_samples, generator):
        (x,) = points.inputs
        chosen = torch.randint(x.shape[1], (len(x), n_samples), generator=generator)
        return (nn.functional.one_hot(chosen, x.shape[1]) * x.unsqueeze(1),)


def changed(again):
    model = drawn(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), seed=7)
    learned = patterns(model)
    with torch.no_grad():
        model[2].weight.mul_(3)
    return by_patterns(model, patterns(model) if again else learned)


@pytest.mark.parametrize(("wrong", "remedy", "right"), WARNED.values(), ids=WARNED)
def test_a_remedy_of_a_warning_works_when_it_is_followed(wrong, remedy, right):
    with pytest.warns(UserWarning, match=remedy):
        wrong()
    assert bool(torch.isfinite(right()).all())  # and warns of nothing: warnings are errors
