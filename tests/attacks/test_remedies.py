"""What a message of an attack advises works when it is followed."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captum.attr import DeepLift, Occlusion, Saliency
from torch import nn

from captum_robust.attacks import (
    L2,
    AutoExplanationAttack,
    BlackBoxExplanationAttack,
    Dombrowski,
    GhorbaniTarget,
    GhorbaniTopK,
    LInf,
    ScaffoldedModel,
    TopKIntersection,
)
from captum_robust.attr import BetaSmoothing
from captum_robust.outputs import Binary, Regression
from tests.attacks.networks import make_images, make_network
from tests.helpers import follow

# Two steps may find nothing, and models in training mode are asked for on purpose.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The attack failed for", "ignore:model is in training mode", "ignore:beta smoothing met"
)

X, Y = make_images(), torch.tensor([0, 1, 2])
MODEL = make_network()
TABLE = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DENSE = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
SERIES = TABLE.view(3, 2, 3)
OF_SERIES = nn.Sequential(nn.Flatten(), DENSE)
MAP = torch.rand(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def top_k(model=MODEL, explanation=None, **settings):
    return GhorbaniTopK(model, explanation, **{"steps": 2, "k": 2, **settings})


def of_table(**settings):
    return top_k(DENSE, **{"input_range": None, **settings})


def target(region, x=X):
    return GhorbaniTarget(MODEL, steps=2, region=region)(x, Y)


def paint(maps, x=X):
    return Dombrowski(MODEL, steps=2)(x, Y, maps)


class TwoInputs(nn.Module):
    def forward(self, x, shift):
        return MODEL(x) + shift


class Pixels(nn.Module):
    """A map of classes."""

    def forward(self, x):
        return torch.cat([x.square(), x.sin(), x**3], dim=1)


class Noisy(nn.Module):
    """One logit."""

    def forward(self, x):
        return MODEL(x)[:, :1]


def normalised():
    attack = top_k(eps=0.1)
    attack.set_normalization_used([0.5], [0.5])
    return attack


def normalised_table():
    attack = of_table()
    attack.set_normalization_used([0.5], [0.5])
    return attack(TABLE)


def table_with_its_own_range():
    return of_table(input_range=(-4, 4))(TABLE)


HALVES = torch.zeros(6, dtype=torch.float64)
HALVES[:3] = 0.1

# name: (what is refused, words of the remedy, what the remedy gives)
FOLLOWED = {
    "eps of an integer range: divided by 255": (
        lambda: top_k(eps=8), "Divide it by 255", lambda: top_k(eps=8 / 255)(X),
    ),
    "eps of an integer range: input_range": (
        lambda: top_k(eps=8), r"input_range=\(low, high\)",
        lambda: top_k(eps=8, alpha=1, input_range=(0, 255))(255 * X),
    ),
    "eps of an integer range: None": (
        lambda: top_k(eps=8), "None for no bound",
        lambda: top_k(eps=8, alpha=1, input_range=None)(255 * X),
    ),
    "eps per feature in L2: LInf": (
        lambda: of_table(eps=HALVES, ball=L2()), r"Use LInf\(\)",
        lambda: of_table(eps=HALVES, ball=LInf())(TABLE),
    ),
    "eps of zeros: zero for some": (
        lambda: of_table(eps=0 * HALVES), "positive for at least one",
        lambda: of_table(eps=HALVES, alpha=0.05)(TABLE),
    ),
    "eps of a call: a tensor": (
        lambda: of_table(eps=HALVES)(TABLE, eps=0.1), "eps must be a tensor in this call",
        lambda: of_table(eps=HALVES, alpha=0.05)(TABLE, eps=HALVES / 2),
    ),
    "a class in place of a ball": (
        lambda: top_k(ball=L2), r"LInf\(\), L2\(\) or a Ball", lambda: top_k(ball=L2())(X),
    ),
    "a model in place of an explanation": (
        lambda: top_k(explanation=MODEL), r"Saliency\(model\)",
        lambda: top_k(explanation=Saliency(MODEL))(X),
    ),
    "a class in place of an output": (
        lambda: top_k(output=Binary), r"such as Binary\(\)",
        lambda: top_k(Noisy(), output=Binary())(X),
    ),
    "settings of the explanation": (
        lambda: top_k(explanation_kwargs={"target": 1}), "given by labels", lambda: top_k()(X, Y),
    ),
    "levels without a range": (
        lambda: of_table(levels=256), r"levels needs input_range=\(0, 1\)",
        lambda: top_k(levels=256, eps=0.1)((X * 255).round() / 255),
    ),
    "levels of images between them": (
        lambda: top_k(levels=256, eps=0.1)(X + 1e-4 * (X < 0.5)), r"\(images \* 255\)\.round\(\)",
        lambda: top_k(levels=256, eps=0.1)((X * 255).round() / 255),
    ),
    "less than a level": (
        lambda: top_k(levels=256, eps=1 / 256), "at least 1/255",
        lambda: top_k(levels=256, eps=1 / 255)((X * 255).round() / 255),
    ),
    "images out of range: input_range": (
        lambda: top_k()(4 * X - 2), r"input_range=\(low, high\)",
        lambda: top_k(input_range=(-2, 2))(4 * X - 2),
    ),
    "images out of range: no bound": (
        lambda: top_k()(4 * X - 2), "or None for no bound",
        lambda: top_k(input_range=None)(4 * X - 2),
    ),
    "images out of range: set_normalization_used": (
        lambda: top_k(eps=0.1)(2 * X - 1), r"set_normalization_used\(mean, std\)",
        lambda: normalised()(2 * X - 1),
    ),
    "a normalised table: a range": (
        normalised_table, r"say input_range=\(low, high\)", table_with_its_own_range,
    ),
    "a normalised table: None": (
        normalised_table, "or None", lambda: of_table()(TABLE),
    ),
    "several inputs": (
        lambda: top_k(TwoInputs())((X, Y)), r"additional_forward_args=\(\.\.\.\)",
        lambda: top_k(TwoInputs())(X, additional_forward_args=(torch.ones(3, 1),)),
    ),
    "an array": (
        lambda: top_k()(X.numpy()), r"torch\.as_tensor",
        lambda: top_k()(torch.as_tensor(X.numpy())),
    ),
    "pixels of bytes": (
        lambda: top_k()((255 * X).byte()), r"images\.float\(\) / 255",
        lambda: top_k(make_network().float())((255 * X).byte().float() / 255),
    ),
    "categories: as what the model takes besides": (
        lambda: top_k(TwoInputs())(Y), "with these as additional_forward_args",
        lambda: top_k(TwoInputs())(X, additional_forward_args=Y[:, None]),
    ),
    "one image without a batch": (
        lambda: top_k()(TABLE[0]), r"images\.unsqueeze\(0\)",
        lambda: of_table()(TABLE[0].unsqueeze(0)),
    ),
    "a series: channel_dim=1": (
        lambda: top_k(OF_SERIES, input_range=None)(SERIES), r"channel_dim=1 for a series",
        lambda: top_k(OF_SERIES, input_range=None, channel_dim=1, k=1)(SERIES),
    ),
    "a series: channel_dim=2": (
        lambda: top_k(OF_SERIES, input_range=None)(SERIES), r"channel_dim=2 for \(N, T, F\)",
        lambda: top_k(OF_SERIES, input_range=None, channel_dim=2, k=1)(SERIES),
    ),
    "grey images without channels": (
        lambda: top_k()(X[:, 0]), r"images\.unsqueeze\(1\)", lambda: top_k()(X[:, 0].unsqueeze(1)),
    ),
    "a dimension that is not there": (
        lambda: top_k(channel_dim=4)(X), "1 to 3", lambda: top_k(channel_dim=3)(X),
    ),
    "what the model takes besides": (
        lambda: top_k(TwoInputs())(X), r"additional_forward_args=\(\.\.\.\), as in Captum",
        lambda: top_k(TwoInputs())(X, additional_forward_args=(torch.zeros(3, 1),)),
    ),
    "one output: Binary": (
        lambda: top_k(Noisy())(X), r"output=outputs\.Binary\(\)",
        lambda: top_k(Noisy(), output=Binary())(X),
    ),
    "one output: Regression": (
        lambda: top_k(Noisy())(X), r"outputs\.Regression\(tolerance=",
        lambda: top_k(Noisy(), output=Regression(tolerance=1.0))(X),
    ),
    "a map of classes: its mean": (
        lambda: top_k(Pixels())(X), r"output\.flatten\(2\)\.mean\(2\)",
        lambda: top_k(lambda x: Pixels()(x).flatten(2).mean(2))(X),
    ),
    "an explanation without a graph: one that has": (
        lambda: top_k(explanation=DeepLift(MODEL)), "Use Saliency",
        lambda: top_k(explanation=Saliency(MODEL))(X),
    ),
    "an explanation without a graph: the black box": (
        lambda: AutoExplanationAttack(MODEL, Occlusion(MODEL)), "BlackBoxExplanationAttack",
        lambda: BlackBoxExplanationAttack(
            MODEL, Occlusion(MODEL), eps=0.1, queries=4, measure=TopKIntersection(3),
            explanation_kwargs={"sliding_window_shapes": (1, 4, 4), "strides": (1, 4, 4)},
        )(X),
    ),
    **{
        f"k over the features: {attack.func.__name__}": (
            lambda attack=attack: attack()(TABLE), r"measure=TopKIntersection\(k=1\)",
            lambda attack=attack: attack(measure=TopKIntersection(k=1))(TABLE),
        )
        for attack in (
            partial(AutoExplanationAttack, DENSE, input_range=None, budget=2),
            partial(BlackBoxExplanationAttack, DENSE, input_range=None, queries=2),
        )
    },
    "a budget by another name": (
        lambda: AutoExplanationAttack(MODEL, budget="long"), "or a number of gradient evaluations",
        lambda: AutoExplanationAttack(MODEL, budget=2, measure=TopKIntersection(3))(X),
    ),
    "a name in place of a measure": (
        lambda: AutoExplanationAttack(MODEL, measure="top-k"), r"TopKIntersection\(k=\.\.\.\)",
        lambda: AutoExplanationAttack(MODEL, budget=2, measure=TopKIntersection(k=3))(X),
    ),
    "no target map": (
        lambda: Dombrowski(MODEL, steps=2)(X, Y), r"attack\(images, labels, target_maps\)",
        lambda: paint(MAP),
    ),
    "a negative target map": (
        lambda: paint(-MAP), r"target_maps\.abs\(\)", lambda: paint((-MAP).abs()),
    ),
    "an empty target map": (
        lambda: paint(0 * MAP), "Set at least one pixel",
        lambda: paint((MAP.max() == MAP).double()),
    ),
    "a region of numbers": (
        lambda: target(MAP), r"region\.bool\(\)", lambda: target((MAP > 0.5).double().bool()),
    ),
    "an empty region": (
        lambda: target(MAP > 2), "Set at least one to True", lambda: target(MAP.max() == MAP),
    ),
    "as many labels as images": (
        lambda: top_k(eps=0.1).perturb_func(Y[:2])(X, 0.1), "Give one per image",
        lambda: top_k(eps=0.1).perturb_func(Y)(X, 0.1),
    ),
    "an explanation behind another model, normalised": (
        lambda: other_model(Saliency(lambda x: MODEL(x)))(2 * X - 1), "explain the model itself",
        lambda: other_model(Saliency(MODEL))(2 * X - 1),
    ),
    "a compiled model": (
        lambda: top_k(torch.compile(MODEL)), "Pass the original eager",
        lambda: top_k(MODEL)(X),
    ),
    "an unfitted scaffold": (
        lambda: ScaffoldedModel(DENSE, DENSE, explainer=lambda f, x: f(x))(TABLE),
        r"call fit\(rows\)", lambda: fitted_scaffold()(TABLE),
    ),
    "queries that nothing tells from data": (
        lambda: fitted_scaffold(lambda f, rows: f(rows)), "Take one that perturbs the rows",
        lambda: fitted_scaffold()(TABLE),
    ),
}  # fmt: skip


def other_model(explanation):
    attack = top_k(explanation=explanation, eps=0.1)
    attack.set_normalization_used([0.5], [0.5])
    return attack


def shifted(model, rows):
    return model(rows + 10)


def fitted_scaffold(explainer=shifted):
    model = ScaffoldedModel(DENSE, DENSE, explainer=explainer)
    rows = torch.randn(60, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model.fit(rows, n_explained=5, multiplier=2, generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize(("wrong", "remedy", "right"), FOLLOWED.values(), ids=FOLLOWED)
def test_a_remedy_works_when_it_is_followed(wrong, remedy, right):
    assert bool(torch.isfinite(follow(wrong, remedy, right)).all())


def test_remedies_of_warnings():
    unsettled = nn.Sequential(make_network(), nn.Dropout())
    with pytest.warns(UserWarning, match=r"model\.eval\(\)"):
        top_k(unsettled.train())(X)
    assert bool(torch.isfinite(top_k(unsettled.eval())(X)).all())
    with pytest.warns(UserWarning, match="explain logits instead"):
        top_k(lambda x: (1e4 * MODEL(x)).softmax(1))(X)
    assert bool(torch.isfinite(top_k(lambda x: 1e4 * MODEL(x))(X)).all())
    with pytest.warns(UserWarning, match=r"attack\.normalize\(images\)"):
        normalised()(X)
    attack = normalised()
    assert bool(torch.isfinite(attack(attack.normalize(X))).all())
    with pytest.warns(UserWarning, match="AutoExplanationAttack"):
        GhorbaniTopK(MODEL, eps=1.0, alpha=1.0, steps=1, k=2)(X)
    best = AutoExplanationAttack(
        MODEL, BetaSmoothing(Saliency(MODEL), 5.0), eps=0.2, budget=20,
        measure=TopKIntersection(5), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    best(X)
    assert not best.report.untouched.all()
