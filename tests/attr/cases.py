"""The explanations that the contract tests share, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from captum.attr import (
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from torch import nn

from captum_robust import perturbations
from captum_robust.attr import (
    BetaSmoothedGradient,
    BetaSmoothing,
    GuidedBackprop,
    InfidelityOptimal,
    KernelSmoothing,
    NoisyBaseline,
    PatternAttribution,
    Patterns,
    RelevancePropagation,
    SparsifiedSmoothing,
    differentiable,
)

SEED = 5


def seeded():
    """Arguments of KernelSmoothing; a fresh generator for each call."""
    return {"generator": torch.Generator().manual_seed(SEED), "n_samples": 3, "radius": 0.2}


@dataclass
class Case:
    make: object  # from a forward function to an attribution
    arguments: object = dict  # further arguments, made for each call
    graph: bool = True  # whether differentiable() accepts it
    draws: bool = False  # whether it draws through captum from the global random state
    homogeneous: bool = True  # whether it is twice as large for twice the output
    noise: bool = False  # whether it draws noise of the shape of the batch
    single: bool = False  # whether Captum computes in single precision where inputs are half
    mixes: bool = False  # whether another input changes the attributions of the first
    differences: bool = False  # whether it takes small differences of outputs


def propagation(forward):
    return RelevancePropagation(forward, -9.0, 9.0)


def pattern_attribution(forward):
    """With patterns that are drawn, for the network that ``forward`` is or calls."""
    cells = [cell.cell_contents for cell in getattr(forward, "__closure__", None) or ()]
    network = next((f for f in (forward, *cells) if isinstance(f, nn.Module)), None) or Network()
    generator = torch.Generator().manual_seed(3)
    patterns = Patterns({
        name: fitting(torch.randn(weight.shape, generator=generator), weight.detach())
        for name, weight in network.named_parameters()
        if weight.dim() > 1
    })  # fmt: skip
    return PatternAttribution(forward, patterns, network)


def fitting(pattern, weight):
    """The nearest pattern whose product with the weight sums to 1, as a learned one's does."""
    answer, size = ((weight * t).flatten(1).sum(1) for t in (pattern, weight))
    return pattern + ((1 - answer) / size).view(-1, *[1] * (weight.dim() - 1)) * weight


OCCLUDE = partial(dict, sliding_window_shapes=(2,))
CASES = {
    "BetaSmoothedGradient": Case(BetaSmoothedGradient),
    "BetaSmoothing(Saliency)": Case(lambda f: BetaSmoothing(Saliency(f))),
    "BetaSmoothing(InputXGradient)": Case(lambda f: BetaSmoothing(InputXGradient(f), 3.0)),
    "BetaSmoothing(IntegratedGradients)": Case(
        lambda f: BetaSmoothing(IntegratedGradients(f)),
        partial(dict, n_steps=3),
        single=True,
        mixes=True,
    ),
    "BetaSmoothing(IntegratedGradients), batched": Case(
        lambda f: BetaSmoothing(IntegratedGradients(f)),
        partial(dict, n_steps=3, internal_batch_size=6),
        single=True,
        mixes=True,
    ),
    "BetaSmoothing(FeatureAblation)": Case(
        lambda f: BetaSmoothing(FeatureAblation(f)), graph=False
    ),
    "BetaSmoothing(NoiseTunnel)": Case(
        lambda f: BetaSmoothing(NoiseTunnel(Saliency(f))),
        partial(dict, stdevs=0.1, nt_samples=2),
        graph=False,
        draws=True,
        noise=True,
        single=True,
        mixes=True,
    ),
    "BetaSmoothing(BetaSmoothing)": Case(lambda f: BetaSmoothing(BetaSmoothedGradient(f, 2.0))),
    "BetaSmoothing(KernelSmoothing)": Case(
        lambda f: BetaSmoothing(KernelSmoothing(Saliency(f))), seeded, noise=True, mixes=True
    ),
    "KernelSmoothing(Saliency)": Case(
        lambda f: KernelSmoothing(Saliency(f)), seeded, noise=True, mixes=True
    ),
    "KernelSmoothing(Saliency), batched": Case(
        lambda f: KernelSmoothing(Saliency(f)),
        lambda: {**seeded(), "internal_batch_size": 2},
        noise=True,
        mixes=True,
    ),
    "KernelSmoothing(IntegratedGradients)": Case(
        lambda f: KernelSmoothing(IntegratedGradients(f)),
        lambda: {**seeded(), "n_steps": 3},
        noise=True,
        single=True,
        mixes=True,
    ),
    "KernelSmoothing(BetaSmoothing)": Case(
        lambda f: KernelSmoothing(BetaSmoothedGradient(f)), seeded, noise=True, mixes=True
    ),
    "KernelSmoothing(FeatureAblation)": Case(
        lambda f: KernelSmoothing(FeatureAblation(f)), seeded, graph=False, noise=True, mixes=True
    ),
    "KernelSmoothing(NoiseTunnel)": Case(
        lambda f: KernelSmoothing(NoiseTunnel(InputXGradient(f))),
        lambda: {**seeded(), "stdevs": 0.1, "nt_samples": 2},
        graph=False,
        draws=True,
        noise=True,
        single=True,
        mixes=True,
    ),
    "GuidedBackprop": Case(GuidedBackprop),
    "RelevancePropagation": Case(propagation, homogeneous=False),
    "PatternAttribution": Case(pattern_attribution),
    "BetaSmoothing(GuidedBackprop)": Case(
        lambda f: BetaSmoothing(GuidedBackprop(f), 3.0), homogeneous=False
    ),
    "BetaSmoothing(RelevancePropagation)": Case(
        lambda f: BetaSmoothing(propagation(f), 3.0), homogeneous=False
    ),
    "BetaSmoothing(PatternAttribution)": Case(lambda f: BetaSmoothing(pattern_attribution(f), 3.0)),
    "KernelSmoothing(GuidedBackprop)": Case(
        lambda f: KernelSmoothing(GuidedBackprop(f)), seeded, noise=True, mixes=True
    ),
    "KernelSmoothing(RelevancePropagation)": Case(
        lambda f: KernelSmoothing(propagation(f)), seeded, homogeneous=False, noise=True, mixes=True
    ),
    "KernelSmoothing(PatternAttribution)": Case(
        lambda f: KernelSmoothing(pattern_attribution(f)), seeded, noise=True, mixes=True
    ),
    "KernelSmoothing's relative SparsifiedSmoothing": Case(
        lambda f: SparsifiedSmoothing(Saliency(f), kept=0.5, stdev=0.2),
        lambda: {k: v for k, v in seeded().items() if k != "radius"},
        graph=False,
        homogeneous=False,
        noise=True,
        mixes=True,
    ),
    "NoisyBaseline": Case(
        NoisyBaseline,
        lambda: {"generator": seeded()["generator"]},
        graph=False,
        noise=True,
        mixes=True,
    ),
    "InfidelityOptimal(FeatureRemoval)": Case(
        lambda f: InfidelityOptimal(f, perturbations.FeatureRemoval()), graph=False
    ),
    "InfidelityOptimal(ShapleyRemoval)": Case(
        lambda f: InfidelityOptimal(f, perturbations.ShapleyRemoval()), graph=False, mixes=True
    ),
    "InfidelityOptimal(CoordinateStep)": Case(
        lambda f: InfidelityOptimal(f, perturbations.CoordinateStep(0.1)),
        graph=False,
        differences=True,
    ),
    "InfidelityOptimal(BaselineShift)": Case(
        lambda f: InfidelityOptimal(f, perturbations.BaselineShift()), graph=False, mixes=True
    ),
}
WITH_GRAPH = [name for name, case in CASES.items() if case.graph]


class Network(nn.Module):
    """Rectifiers, a BatchNorm that may be frozen, a buffer and a second input."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("shift", torch.zeros(6))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.5, generator=generator)
            self.norm.running_mean.normal_(generator=generator)
        self.to(dtype).eval()

    def forward(self, x, y=None, scale=1.0):
        x = x if y is None else x + y.flatten(1).sum(1, keepdim=True) ** 2
        z = torch.relu(self.norm(self.first(x)) + self.shift)
        return self.second(self.dropout(z)) * scale


def points(n=3, dtype=torch.float64, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator, dtype=torch.float64).to(dtype)


def explain(name, forward, inputs, graph=False, **kwargs):
    case = CASES[name]
    attribution = case.make(forward)
    run = differentiable(attribution) if graph else attribution.attribute
    torch.manual_seed(0)
    return run(inputs, **{**case.arguments(), **kwargs})


def each_way(names=CASES):
    """Every case, and once more with a graph where it has one."""
    return pytest.mark.parametrize(
        ("name", "graph"),
        [
            pytest.param(name, graph, id=f"{name}{', graph' if graph else ''}")
            for name in names
            for graph in (False, True)
            if not graph or CASES[name].graph
        ],
    )
