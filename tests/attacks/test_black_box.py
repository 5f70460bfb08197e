"""The attack that only asks: any explanation, counted queries, models without gradients."""

from __future__ import annotations

import pytest
import torch
from captum.attr import KernelShap, Lime, NoiseTunnel, Occlusion, Saliency
from torch import nn

import captum_robust.attacks.black_box as module
from captum_robust.attacks import (
    L2,
    BlackBoxExplanationAttack,
    GhorbaniTopK,
    RandomSign,
    TopKIntersection,
)
from captum_robust.attacks._limits import Limits
from captum_robust.attacks._proposals import stratified_normal, with_square
from captum_robust.attacks.balls import LInf
from tests.helpers import rng

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")
K = 9


def black_box(model, explanation=None, eps=0.1, queries=40, **kwargs):
    return BlackBoxExplanationAttack(
        model, explanation, eps, queries, measure=TopKIntersection(K), generator=rng(), **kwargs
    )


WINDOW = {"sliding_window_shapes": (1, 2, 2), "strides": (1, 2, 2)}
SQUARES = torch.arange(16).view(1, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2)[None]


@pytest.mark.parametrize(
    ("method", "kwargs"),
    [
        (Occlusion, WINDOW),
        (KernelShap, {"feature_mask": SQUARES, "n_samples": 20}),
        (Lime, {"feature_mask": SQUARES, "n_samples": 20}),
        (lambda m: NoiseTunnel(Saliency(m)), {"nt_samples": 2, "stdevs": 0.05}),
    ],
    ids=["Occlusion", "KernelShap", "Lime", "NoiseTunnel"],
)
@pytest.mark.filterwarnings("ignore:Minimum number of perturbations")
@pytest.mark.filterwarnings("ignore:You are providing multiple inputs")
def test_explanations_without_a_graph(method, kwargs, make_network, make_images):
    """The same draws at every candidate, and none from the caller's random state."""
    model, images = make_network().float(), make_images(2).float()
    before = torch.get_rng_state()
    attack = black_box(model, method(model), queries=40, explanation_kwargs=kwargs)
    manipulated = attack(images)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(model(manipulated).argmax(1), model(images).argmax(1))
    assert (manipulated - images).abs().max() <= 0.1
    again = black_box(model, method(model), queries=40, explanation_kwargs=kwargs)(images)
    assert torch.equal(manipulated, again)
    assert attack.report.measure.mean() < 1


def test_it_takes_more_than_chance_and_nears_the_white_box(make_network, make_images):
    model, images = make_network(), make_images(12)
    found = {}
    for name, attack in {
        "black box": black_box(model, queries=200),
        "chance": RandomSign(model, eps=0.1, steps=200, generator=rng()),
        "white box": GhorbaniTopK(model, None, 0.1, 0.02, 60, k=K),
    }.items():
        manipulated = attack(images)
        labels = model(images).argmax(1)
        maps = [
            Saliency(model).attribute(x.clone().requires_grad_(), target=labels).abs().sum(1)
            for x in (images, manipulated)
        ]
        found[name] = 1 - TopKIntersection(K)(*maps).mean().item()
    assert found["black box"] > 1.15 * found["chance"]
    assert found["black box"] > found["white box"] - 0.2


def test_a_function_that_answers_queries(make_network, make_images):
    network, images = make_network(), make_images(3)

    class Remote:
        """No module, no gradient."""

        def __call__(self, x):
            with torch.no_grad():
                return network(x)

    remote = Remote()
    explanation = Occlusion(remote)
    attack = black_box(remote, explanation, queries=20, explanation_kwargs=WINDOW)
    manipulated = attack(images)
    assert torch.equal(network(manipulated).argmax(1), network(images).argmax(1))
    assert attack.report.measure.mean() < 1


@pytest.mark.parametrize(
    ("shape", "channel_dim"), [((3, 12), None), ((3, 4, 10), 1), ((3, 10, 4), 2),
                               ((3, 2, 8, 8), None), ((2, 1, 5, 6, 7), None)],
)  # fmt: skip
def test_squares_move_a_box_to_the_border(shape, channel_dim):
    x = torch.full(shape, 0.5, dtype=torch.float64)
    moved = with_square(x, x, 0.3, Limits(LInf(), 0.1, (0.0, 1.0)), channel_dim, rng())
    changed = (moved - x).abs() > 0
    torch.testing.assert_close((moved - x)[changed].abs(), torch.full_like(x, 0.1)[changed])
    for row in changed:
        extent = 1
        for d in range(row.dim()):
            index = row.transpose(0, d).reshape(row.shape[d], -1).any(1).nonzero().flatten()
            assert len(index) == index[-1] - index[0] + 1  # one run in each dimension
            extent *= len(index)
        assert row.sum() == extent


def test_squares_within_l2():
    x = torch.full((4, 1, 8, 8), 0.5, dtype=torch.float64)
    limits, moved = Limits(L2(), 0.7, (0.0, 1.0)), x
    for seed in range(20):
        moved = with_square(moved, x, 0.2, limits, None, rng(seed))
        assert ((moved - x).flatten(1).norm(dim=1) <= 0.7).all()
    assert ((moved - x).flatten(1).norm(dim=1) > 0.5).all()


@pytest.mark.parametrize("count", [1, 4, 50])
def test_noise_is_antithetic_and_stratified(count):
    noise = stratified_normal(torch.zeros(5, 3), count, rng())
    assert noise.shape == (2 * count, 5, 3)
    assert torch.equal(noise[:count], -noise[count:])
    shares = torch.distributions.Normal(0, 1).cdf(noise[:count])
    for column in (shares * count).floor().flatten(1).T:
        assert sorted(column.tolist()) == list(range(count))


def test_all_queries_are_used_and_no_more(make_network, make_images):
    model, images = make_network(), make_images(2)
    for queries in (1, 2, 3, 17, 50):
        asked = []

        class Counted(Saliency):
            def attribute(self, inputs, *args, asked=asked, **kwargs):
                asked.append(len(inputs))
                return super().attribute(inputs, *args, **kwargs)

        attack = black_box(model, Counted(model), queries=queries)
        attack(images)
        assert len(asked) == queries
        assert attack.report.iterations.tolist() == [queries - 1] * 2


@pytest.mark.parametrize("ball", [LInf(), L2()], ids=str)
def test_learning_from_answers_beats_squares_alone(ball, make_network, make_images, monkeypatch):
    model, images = make_network(), make_images(24)
    eps = 0.1 if isinstance(ball, LInf) else 0.5
    left = []
    for corners, squares in ((module._CORNERS, module._SQUARES), (0.0, 1.0)):
        monkeypatch.setattr(module, "_CORNERS", corners)
        monkeypatch.setattr(module, "_SQUARES", squares)
        attack = black_box(model, eps=eps, queries=200, ball=ball)
        attack(images)
        left.append(attack.report.measure.mean().item())
    assert left[0] < left[1]


def test_each_feature_has_its_own_radius(make_network, make_images):
    model, images = make_network(), make_images(2)
    eps = torch.zeros_like(images[0])
    eps[..., :4] = torch.linspace(0.05, 0.2, 4)
    attack = black_box(model, eps=eps, queries=60)
    change = (attack(images) - images).abs()
    assert (change <= eps).all()
    assert (change[..., :4] > 0).any()
    assert attack.report.measure.mean() < 1


def test_what_is_refused(make_network):
    model = make_network()
    for queries, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="queries must be"):
            BlackBoxExplanationAttack(model, queries=queries)
    with pytest.raises(TypeError, match="explanation must be a captum Attribution"):
        BlackBoxExplanationAttack(model, nn.ReLU())
    with pytest.raises(TypeError, match="measure must be"):
        BlackBoxExplanationAttack(model, measure="top")
