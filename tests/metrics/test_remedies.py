"""What a message of a metric advises works when it is followed."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam, Saliency
from torch import nn

from captum_robust import metrics
from captum_robust.attacks import GhorbaniTopK
from captum_robust.attr import BetaSmoothing
from captum_robust.perturbations import FeatureRemoval
from tests.helpers import rng

X = torch.rand(2, 1, 8, 8, generator=rng(), dtype=torch.float64)
TABLE = torch.randn(40, 4, generator=rng(1), dtype=torch.float64)
NET = nn.Sequential(
    nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)
).double().eval()  # fmt: skip
with torch.no_grad():
    for number, weight in enumerate(NET.parameters()):
        weight.copy_(torch.randn(weight.shape, generator=rng(number), dtype=torch.float64) / 3)
DENSE = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double().eval()
GRADIENT = Saliency(NET)
SERIES = torch.rand(2, 3, 5, generator=rng(2), dtype=torch.float64)
NAN = torch.full_like(X, torch.nan)
Y = torch.tensor([0, 1])


def saturated(x):
    return (1e5 * NET(x)).softmax(1)


def logits(x):
    return 1e5 * NET(x)


def gradient_of(model, x=X):
    return Saliency(model).attribute(x.clone().requires_grad_(), target=0)


def quotient(x):
    return NET(x) / (x.sum((1, 2, 3)) > 0).to(x)[:, None]


def infidelity(attributions=X, model=NET, **more):
    arguments = {"target": 0, "n_perturb_samples": 4, "generator": rng(), **more}
    removal = arguments.pop("removal", FeatureRemoval())
    return metrics.infidelity(model, removal, X, attributions, **arguments)


def flipping(inputs=X, attributions=X, model=NET, **more):
    return metrics.pixel_flipping(model, inputs, attributions, n_steps=2, **more).probabilities


def sensitivity(explanation=GRADIENT, inputs=X, **more):
    return metrics.sensitivity_max(
        explanation, inputs, **{"n_perturb_samples": 2, "target": 0, "generator": rng(), **more}
    )


def randomized(explanation=GRADIENT, **more):
    found = metrics.parameter_randomization(
        explanation, X, **{"target": 0, "generator": rng(), **more}
    )
    return torch.stack([of.signed for of in found.values()])


def consistency(**more):
    def explain(model, rows):
        steps = torch.linspace(-1, 1, 20).view(1, 20, 1).to(rows)
        return model((rows.unsqueeze(1) + steps).flatten(0, 1))

    arguments = {
        "forward_func": DENSE, "explainer": explain, "data": TABLE, "rows": TABLE[:4],
        "target": 0, "n_queries": 10, "generator": rng(), **more,
    }  # fmt: skip
    return torch.tensor(metrics.query_consistency(**arguments).p_value)


COLUMNS = torch.arange(TABLE.shape[1]) // 2
MAPS = torch.rand(3, 8, 8, generator=rng(3), dtype=torch.float64)

# name: (what is refused, words of the remedy, what the remedy gives)
FOLLOWED = {
    "integers to compare: float()": (
        lambda: metrics.pearson_correlation(X.long(), X.long()), r"convert with \.float\(\)",
        lambda: metrics.pearson_correlation((9 * X).long().float(), (7 * X).long().float()),
    ),
    "one map without a batch": (
        lambda: metrics.top_k_intersection(TABLE[0], TABLE[1], 2), r"\.unsqueeze\(0\)",
        lambda: metrics.top_k_intersection(TABLE[0].unsqueeze(0), TABLE[1].unsqueeze(0), 2),
    ),
    "other channels: relevance maps": (
        lambda: metrics.mean_squared_error(X, X.expand(-1, 3, -1, -1)),
        "compared as relevance maps",
        lambda: metrics.mean_squared_error(
            metrics.relevance_map(X), metrics.relevance_map(X.expand(-1, 3, -1, -1))
        ),
    ),
    "several explanations: one at a time": (
        lambda: metrics.spearman_correlation((X, X), (X, X)), "one at a time",
        lambda: metrics.spearman_correlation(X, X.square()),
    ),
    "a similarity of tables: another than SSIM": (
        lambda: metrics.structural_similarity(TABLE, TABLE), "use another similarity",
        lambda: metrics.pearson_correlation(TABLE, TABLE.exp()),
    ),
    "the range of SSIM: None": (
        lambda: metrics.structural_similarity(X, X, data_range=0), "None takes that of each pair",
        lambda: metrics.structural_similarity(X, X, data_range=None),
    ),
    "the range of SSIM: 1": (
        lambda: metrics.structural_similarity(X, X, data_range=-1), "1.0 is right for images",
        lambda: metrics.structural_similarity(X, X, data_range=1.0),
    ),
    "a window over the side": (
        lambda: metrics.structural_similarity(X, X, win_size=9), "at most the smaller side",
        lambda: metrics.structural_similarity(X, X, win_size=7),
    ),
    "explanations with channels: their maps": (
        lambda: metrics.local_top_k_intersection(X.unsqueeze(1), X.unsqueeze(1), 4),
        r"relevance_map\(a\)",
        lambda: metrics.local_top_k_intersection(
            metrics.relevance_map(X), metrics.relevance_map(X), 4
        ),
    ),
    "maps without channels: unsqueeze(1)": (
        lambda: metrics.relevance_map(MAPS), r"unsqueeze\(1\)",
        lambda: metrics.relevance_map(MAPS.unsqueeze(1)),
    ),
    "a series: channel_dim=1": (
        lambda: metrics.relevance_map(SERIES), "channel_dim=1",
        lambda: metrics.relevance_map(SERIES, channel_dim=1),
    ),
    "a series: channel_dim=-1": (
        lambda: metrics.relevance_map(SERIES), "channel_dim=-1",
        lambda: metrics.relevance_map(SERIES, channel_dim=-1),
    ),
    "target of explained_relevance: labels": (
        lambda: metrics.explained_relevance(GRADIENT, X, target=Y), "Pass labels=",
        lambda: metrics.explained_relevance(GRADIENT, X, labels=Y),
    ),
    "one column in several features: their sum": (
        lambda: metrics.feature_rank(X, 0), "column_attributions makes them",
        lambda: metrics.feature_rank(X.flatten(2).sum(2).expand(-1, 2), 0).double(),
    ),
    "a perturb_func of infidelity: Captum's metric": (
        lambda: infidelity(removal=FeatureRemoval().perturb_func()), r"captum\.metrics\.infidelity",
        lambda: captum_infidelity(),
    ),
    "explanations of a layer: of the inputs": (
        lambda: infidelity(X[..., :4]), "Explain the inputs themselves", infidelity,
    ),
    "integer attributions": (
        lambda: infidelity(X.long()), r"use \.float\(\)", lambda: infidelity(X.long().double()),
    ),
    "a function in place of an explanation": (
        lambda: sensitivity(3), r"Pass Saliency\(model\)", sensitivity,
    ),
    "convergence deltas": (
        lambda: sensitivity(IntegratedGradients(NET), return_convergence_delta=True),
        "Leave it out", lambda: sensitivity(IntegratedGradients(NET), n_steps=4),
    ),
    "an attack as a neighbourhood": (
        lambda: sensitivity(perturb_func=3), r"attack\.perturb_func\(labels\)",
        lambda: sensitivity(
            perturb_func=GhorbaniTopK(NET, eps=0.1, steps=5, k=9).perturb_func(Y),
            n_perturb_samples=1, perturb_radius=0.1,
        ),
    ),
    "a neighbourhood of its own: None": (
        lambda: sensitivity(perturb_func="ball"), "None draws uniformly", sensitivity,
    ),
    "NaN of a neighbourhood": (
        lambda: sensitivity(perturb_func=lambda x, radius: x / 0 * 0), r"torch\.isfinite",
        lambda: sensitivity(perturb_func=lambda x, radius: x + radius),
    ),
    "the norm of sensitivity": (
        lambda: sensitivity(norm_ord="max"), '"fro" or a number', lambda: sensitivity(norm_ord=1),
    ),
    "a row that is one number: unsqueeze(1)": (
        lambda: flipping(TABLE[:, 0], TABLE[:, 0], lambda x: DENSE(x.expand(-1, 4))),
        r"inputs\.unsqueeze\(1\)",
        lambda: flipping(
            TABLE[:, :1], TABLE[:, :1], lambda x: DENSE(x.expand(-1, 4))
        ),
    ),
    "integers to flip by": (
        lambda: flipping(attributions=X.long()), r"use \.float\(\)",
        lambda: flipping(attributions=(9 * X).long().float()),
    ),
    "a fraction of less than one feature": (
        lambda: flipping(largest_fraction=1 / 1000), "the least is",
        lambda: flipping(largest_fraction=1 / 64),
    ),
    "NaN in a baseline": (
        lambda: flipping(baselines=NAN), "the value of a feature that is absent",
        lambda: flipping(baselines=X.mean()),
    ),
    "a model that cannot take the baseline": (
        lambda: flipping(model=lambda x: quotient(x).log_softmax(1)), "can take the baselines",
        lambda: flipping(model=lambda x: quotient(x).log_softmax(1), baselines=0.5),
    ),
    "several baselines": (
        lambda: flipping(baselines=(0.0, 0.0)), "a tuple of one for each",
        lambda: flipping(baselines=0.0),
    ),
    "a function that hides its model": (
        lambda: randomized(lambda x, target: x), "model=",
        lambda: randomized(
            lambda x, target: Saliency(NET).attribute(x.requires_grad_(), target=target), model=NET
        ),
    ),
    "no layer": (
        lambda: randomized(layers=[]), "leave it out for all", randomized,
    ),
    "a layer that is not there": (
        lambda: randomized(layers=["head"]), "It has", lambda: randomized(layers=["3"]),
    ),
    "a layer without parameters": (
        lambda: randomized(layers=["1", "3"]), "Leave it out", lambda: randomized(layers=["3"]),
    ),
    "a region of other numbers": (
        lambda: metrics.location_fooling(MAPS, 7 * MAPS[0]), r"region\.bool\(\)",
        lambda: metrics.location_fooling(MAPS, (MAPS[0] > 0.5).bool()),
    ),
    "intervals of the paper": (
        lambda: metrics.fooling_success_rate(TABLE[:, 0], 0.5), r"FoolingIntervals\(\)",
        lambda: torch.tensor(
            metrics.fooling_success_rate(
                TABLE[:, 0], metrics.FoolingIntervals().location
            ).rate
        ),
    ),
    "a surface of equal output: logits": (
        lambda: metrics.principal_curvature(lambda x: (1e5 * DENSE(x)).softmax(1), TABLE[:2], 0),
        "Explain logits", lambda: metrics.principal_curvature(DENSE, TABLE[:2], 0),
    ),
    "queries of a table: flat": (
        lambda: consistency(data=X), "Flatten what is not a table",
        lambda: consistency(data=TABLE.view(20, 2, 4).flatten(0, 1)),
    ),
    "an explainer that asks nothing": (
        lambda: consistency(explainer=lambda model, rows: rows), "it must call its first argument",
        consistency,
    ),
    "an explainer that asks for the rows alone": (
        lambda: consistency(explainer=lambda model, rows: model(rows)),
        "one that perturbs the rows", consistency,
    ),
    "features of a column that differ: their sum": (
        lambda: metrics.column_attributions(TABLE, COLUMNS, shared=True), "shared=False",
        lambda: metrics.column_attributions(TABLE, COLUMNS, shared=False),
    ),
    "students: two": (
        lambda: consistency(students=[object()]), "give at least two",
        lambda: consistency(students=two_students()),
    ),
    "a generator": (
        lambda: sensitivity(generator=0), r"torch\.Generator\(\)\.manual_seed\(0\)",
        lambda: sensitivity(generator=torch.Generator().manual_seed(0)),
    ),
}  # fmt: skip


def captum_infidelity():
    from captum.metrics import infidelity as of_captum

    draws = FeatureRemoval().perturb_func(rng(), n_examples=2)
    return of_captum(lambda x: NET(x)[:, 0], draws, X, X, n_perturb_samples=4)


def two_students():
    from sklearn.linear_model import Ridge
    from sklearn.tree import DecisionTreeRegressor

    return [Ridge(), DecisionTreeRegressor(random_state=0)]


@pytest.mark.parametrize(("wrong", "remedy", "right"), FOLLOWED.values(), ids=FOLLOWED)
def test_a_remedy_works_when_it_is_followed(wrong, remedy, right):
    with pytest.raises((TypeError, ValueError, AssertionError), match=remedy):
        wrong()
    assert bool(torch.isfinite(right()).all())


WARNED = {
    "a saturated explanation: logits": (
        lambda: metrics.relevance_map(gradient_of(saturated)),
        "explain logits",
        lambda: metrics.relevance_map(gradient_of(logits)),
    ),
    "a saturated explanation, its sensitivity": (
        lambda: sensitivity(Saliency(saturated)), "explain logits",
        lambda: sensitivity(Saliency(logits)),
    ),
    "a saturated explanation, its stability": (
        lambda: metrics.explanation_stability(
            Saliency(saturated), X, n_perturb_samples=2, target=0, generator=rng()
        ),
        "explain logits",
        lambda: metrics.explanation_stability(
            Saliency(logits), X, n_perturb_samples=2, target=0, generator=rng()
        ),
    ),
    "the Jacobian of rectifiers: BetaSmoothing": (
        lambda: metrics.sensitivity_gradient(
            GRADIENT, X, n_perturb_samples=1, target=0, generator=rng()
        ),
        "explain with BetaSmoothing",
        lambda: metrics.sensitivity_gradient(
            BetaSmoothing(GRADIENT, 2.0), X, n_perturb_samples=1, target=0, generator=rng()
        ),
    ),
    "the Jacobian of rectifiers: sensitivity_max": (
        lambda: metrics.sensitivity_gradient(
            GRADIENT, X, n_perturb_samples=1, target=0, generator=rng()
        ),
        "or use sensitivity_max", sensitivity,
    ),
    "a power iteration that stops early": (
        lambda: metrics.sensitivity_gradient(
            BetaSmoothing(GRADIENT, 2.0), X, n_perturb_samples=1, target=0, n_iterations=1,
            tolerance=1e-6, generator=rng(),
        ),
        "Raise n_iterations, or tolerance",
        lambda: metrics.sensitivity_gradient(
            BetaSmoothing(GRADIENT, 2.0), X, n_perturb_samples=1, target=0, n_iterations=900,
            tolerance=1e-2, generator=rng(),
        ),
    ),
    "the curvature of rectifiers: beta": (
        lambda: metrics.principal_curvature(NET, X, target=0), "give beta",
        lambda: metrics.principal_curvature(NET, X, target=0, beta=1.0),
    ),
    "a Lanczos iteration that stops early": (
        lambda: metrics.principal_curvature(
            NET, X, target=0, beta=1.0, n_iterations=2, tolerance=1e-9
        ),
        "Raise n_iterations, or tolerance",
        lambda: metrics.principal_curvature(NET, X, target=0, beta=1.0, n_iterations=64),
    ),
    "a constant explanation: logits": (
        lambda: metrics.pearson_correlation(*_pair(saturated)), "explain logits",
        lambda: metrics.pearson_correlation(*_pair(logits)),
    ),
}  # fmt: skip


def _pair(model):
    return [gradient_of(model, x) for x in (X, X.flip(0))]


@pytest.mark.parametrize(("wrong", "remedy", "right"), WARNED.values(), ids=WARNED)
def test_a_remedy_of_a_warning_works_when_it_is_followed(wrong, remedy, right):
    with pytest.warns(UserWarning, match=remedy):
        wrong()
    assert bool(torch.isfinite(right()).all())  # and warns of nothing: warnings are errors


def test_a_layer_explanation_is_sent_on():
    cam = LayerGradCam(NET, NET[0])
    with pytest.raises(ValueError, match="Explain the inputs themselves, not a layer"):
        infidelity(cam.attribute(X, target=0)[..., :3])
