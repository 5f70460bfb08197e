"""Any model, any input: what outputs mean, what inputs are, further arguments of the model."""

from __future__ import annotations

import pytest
import torch
from captum.attr import InputXGradient, Saliency
from torch import nn

from captum_robust.attacks import L2, Dombrowski, GhorbaniMassCenter, GhorbaniTopK, RandomSign
from captum_robust.outputs import Binary, Categorical, MultiLabel, Regression
from tests.attacks.networks import draw_weights
from tests.helpers import rng

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")
K = 5


class OneLogit(nn.Module):
    """The difference of two logits of a network: (N, 1) or (N,)."""

    def __init__(self, network, column):
        super().__init__()
        self.network, self.column = network, column

    def forward(self, x):
        z = self.network(x)
        z = z[:, 1:2] - z[:, 0:1]
        return z if self.column else z.squeeze(1)


class TwoLogits(nn.Module):
    def __init__(self, one):
        super().__init__()
        self.one = one

    def forward(self, x):
        z = self.one(x).view(-1, 1)
        return torch.cat([-z / 2, z / 2], dim=1)


class TestOutputs:
    @pytest.mark.parametrize("column", [True, False])
    @pytest.mark.parametrize("given", [None, torch.tensor([0, 1, 1, 0, 0, 1])])
    @pytest.mark.parametrize("kind", ["top_k", "center", "random", "map"])
    def test_one_logit_is_attacked_as_two_are(self, column, given, kind, make_network, make_images):
        one = OneLogit(make_network(), column)
        images = make_images(6)

        def attacked(model, **kwargs):
            further = ()
            if kind == "top_k":
                attack = GhorbaniTopK(model, None, 0.3, 0.06, 8, k=K, **kwargs)
            elif kind == "center":
                attack = GhorbaniMassCenter(model, None, 0.3, 0.06, 8, **kwargs)
            elif kind == "random":
                attack = RandomSign(model, None, 0.3, 8, generator=rng(), **kwargs)
            else:
                attack, further = Dombrowski(model, steps=8, **kwargs), (torch.ones(8, 8),)
            return attack(images, given, *further)

        single, double = attacked(one, output=Binary()), attacked(TwoLogits(one))
        torch.testing.assert_close(single, double, rtol=0, atol=1e-5)
        assert (single != images).any()
        assert torch.equal(one(single) > 0, one(images) > 0)

    @pytest.mark.parametrize("column", [True, False])
    def test_one_number_needs_its_meaning(self, column, make_network, make_images):
        model = OneLogit(make_network(), column)
        calls = []
        model.register_forward_hook(lambda *_: calls.append(1))
        with pytest.raises(ValueError, match=r"output: .*Binary\(\).*Regression\(tolerance"):
            GhorbaniTopK(model, steps=2, k=K)(make_images())
        assert len(calls) == 1  # nothing but the look at the shape
        for output in (Binary(), Regression(tolerance=0.5)):  # the advice, followed
            GhorbaniTopK(model, steps=2, k=K, output=output)(make_images())

    @pytest.mark.parametrize("tolerance", [0.01, 0.04])
    def test_a_regression_stays_within_its_tolerance(self, tolerance, make_network, make_images):
        model, images = OneLogit(make_network(), True), make_images(6)
        attack = GhorbaniTopK(model, None, 0.1, 0.02, 8, k=K, output=Regression(tolerance))
        manipulated = attack(images)
        assert (model(manipulated) - model(images)).abs().max() <= tolerance
        assert (manipulated != images).any()
        free = GhorbaniTopK(model, None, 0.1, 0.02, 8, k=K, output=Regression(100.0))(images)
        assert (model(free) - model(images)).abs().max() > tolerance

    def test_a_set_of_labels_is_kept(self, make_network, make_images):
        model, images = make_network(), make_images(8)
        attack = GhorbaniTopK(model, None, 0.3, 0.06, 8, k=K, output=MultiLabel())
        manipulated = attack(images)
        assert torch.equal(model(manipulated) > 0, model(images) > 0)
        as_classes = GhorbaniTopK(model, None, 0.3, 0.06, 8, k=K, output=Categorical())(images)
        assert not torch.equal(model(as_classes) > 0, model(images) > 0)  # else nothing is shown

    def test_eps_output_bounds_the_score(self, make_network, make_images):
        model, images = OneLogit(make_network(), True), make_images(8)

        def change(bound):
            attack = GhorbaniTopK(model, None, 0.1, 0.02, 8, k=K, output=Binary(), eps_output=bound)
            return (model(attack(images)) - model(images)).abs().max()

        assert change(None) > 0.02
        assert 0 < change(0.02) <= 0.02


class Sequence(nn.Module):
    """A score for each class from a series (N, C, T)."""

    def __init__(self, channels=3, length=12):
        super().__init__()
        self.conv, self.dense = nn.Conv1d(channels, 4, 3), nn.Linear(4 * (length - 2), 3)
        draw_weights(self.double(), seed=2)

    def forward(self, x):
        return self.dense(torch.relu(self.conv(x)).flatten(1))


class TimeFirst(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.transpose(1, 2))


class TestInputs:
    def table(self):
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double()
        return draw_weights(model, seed=1).eval(), 2 * torch.randn(8, 6, generator=rng(3)).double()

    def test_a_table_of_any_range(self):
        model, x = self.table()
        with pytest.raises(ValueError, match=r"images must be in \[0, 1\].*input_range"):
            GhorbaniTopK(model, steps=3, k=2)(x)
        attack = GhorbaniTopK(model, eps=0.2, alpha=0.05, steps=8, k=2, input_range=None)
        manipulated = attack(x)
        assert 0 < (manipulated - x).abs().max() <= 0.2
        assert torch.equal(model(manipulated).argmax(1), model(x).argmax(1))
        bounded = GhorbaniTopK(model, eps=0.2, alpha=0.05, steps=8, k=2, input_range=(-9, 9))(x)
        assert torch.equal(bounded, manipulated)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("frozen", [[0], [2, 3, 5]])
    def test_a_radius_for_each_feature(self, dtype, frozen):
        model, x = self.table()
        model, x = model.to(dtype), x.to(dtype)
        eps = torch.linspace(0.1, 0.6, 6).double()
        eps[frozen] = 0
        for make in (
            lambda **kw: GhorbaniTopK(model, None, eps, 0.2, 6, k=2, restarts=2, **kw),
            lambda **kw: RandomSign(model, None, eps, 6, **kw),
        ):
            manipulated = make(input_range=None, generator=rng())(x)
            assert torch.equal(manipulated[:, frozen], x[:, frozen])
            assert ((manipulated.double() - x.double()).abs() <= eps).all()
            assert (manipulated != x).any()

    def test_bounds_for_each_feature(self):
        model, x = self.table()
        low, high = x.amin(0) - 0.05, x.amax(0) + 0.02
        attack = GhorbaniTopK(model, eps=0.5, alpha=0.2, steps=8, k=2, input_range=(low, high))
        manipulated = attack(x)
        assert (manipulated >= low).all()
        assert (manipulated <= high).all()
        assert (manipulated - x).abs().max() > 0.1
        with pytest.raises(ValueError, match="images must be in input_range"):
            attack(x + 1)

    @pytest.mark.parametrize("channel_dim", [1, 2, -1])
    def test_a_series_says_where_its_channels_are(self, channel_dim):
        model, x = Sequence(), torch.rand(4, 3, 12, generator=rng(1)).double()
        if channel_dim != 1:
            model, x = TimeFirst(model), x.transpose(1, 2).contiguous()
        seen = []

        class Watching(GhorbaniTopK):
            def objective(self, clean):
                seen.append(clean.relevance)
                return super().objective(clean)

        with pytest.raises(ValueError, match=r"channel_dim.*channel_dim=1.*channel_dim=2"):
            GhorbaniTopK(model, steps=2, k=3)(x)
        attack = Watching(model, eps=0.1, alpha=0.03, steps=3, k=3, channel_dim=channel_dim)
        attack(x)
        gradient = Saliency(model).attribute(
            x.clone().requires_grad_(), target=model(x).argmax(1), abs=True
        )
        expected = gradient.sum(channel_dim)
        torch.testing.assert_close(seen[0], expected / expected.sum(1, keepdim=True))

    def test_a_volume(self):
        model = nn.Sequential(nn.Conv3d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 8, 3))
        draw_weights(model.double(), seed=0)
        x = torch.rand(2, 2, 4, 4, 4, generator=rng()).double()
        manipulated = GhorbaniTopK(model, eps=0.1, alpha=0.03, steps=4, k=9)(x)
        assert 0 < (manipulated - x).abs().max() <= 0.1

    def test_a_function_is_a_model(self, make_network, make_images):
        network, images = make_network(), make_images()
        network.train()

        def forward(x):
            return network(x) * 2

        flags = [p.requires_grad for p in network.parameters()]
        through = GhorbaniTopK(forward, eps=0.1, alpha=0.03, steps=3, k=K)(images)
        named = GhorbaniTopK(forward, Saliency(forward), 0.1, 0.03, 3, k=K)(images)
        plain = GhorbaniTopK(network, eps=0.1, alpha=0.03, steps=3, k=K)(images)
        torch.testing.assert_close(through, plain, rtol=0, atol=1e-9)
        assert torch.equal(named, through)
        assert [p.requires_grad for p in network.parameters()] == flags
        assert network.training


class Tempered(nn.Module):
    """Takes the images, a temperature for each, and a flag."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, temperature, square=False):
        z = self.network(x) / temperature.view(-1, 1)
        return z.square() if square else z


class TestFurtherArguments:
    @pytest.mark.parametrize("method", [Saliency, InputXGradient])
    def test_they_reach_the_model_and_the_explanation(self, method, make_network, make_images):
        network, images = make_network(), make_images(4)
        heat = torch.tensor([1.0, 2.0, 0.5, 3.0]).double()

        class Fixed(nn.Module):
            def __init__(self):
                super().__init__()
                self.model = Tempered(network)

            def forward(self, x):
                return self.model(x, heat, True)

        settings = {"eps": 0.1, "alpha": 0.03, "steps": 5, "k": K}
        model = Tempered(network)
        given = GhorbaniTopK(model, method(model), **settings)(
            images, additional_forward_args=(heat, True)
        )
        fixed = Fixed()
        expected = GhorbaniTopK(fixed, method(fixed), **settings)(images)
        assert torch.equal(given, expected)
        assert (given != images).any()

    def test_a_missing_argument_is_named(self, make_network, make_images):
        model, images = Tempered(make_network()), make_images()
        attack = GhorbaniTopK(model, steps=2, k=K)
        with pytest.raises(TypeError, match=r"temperature.*additional_forward_args"):
            attack(images)
        one = torch.ones(len(images)).double()
        attack(images, additional_forward_args=one)  # the advice, followed; one argument, bare
        with pytest.raises(TypeError, match="additional_forward_args"):
            attack(images, additional_forward_args=(one, True, 3))

    def test_a_tuple_of_inputs_is_told_apart(self, make_network, make_images):
        model, images = Tempered(make_network()), make_images()
        heat = torch.ones(len(images)).double()
        with pytest.raises(ValueError, match=r"images must be.*got 2.*additional_forward_args"):
            GhorbaniTopK(model, steps=2, k=K)((images, heat))


class TestModes:
    def model(self):
        layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
        )
        return draw_weights(layers.double(), seed=0)

    def test_training_mode_is_told(self, make_images):
        model, images = self.model(), make_images()
        attack = GhorbaniTopK(model, eps=0.1, alpha=0.03, steps=3, k=K)
        with pytest.warns(UserWarning, match=r"training mode.*model\.eval\(\)"):
            told = attack(images)
        assert model.training
        model.eval()  # the advice, followed: no warning
        assert torch.equal(attack(images), told)

    def test_no_warning_where_the_mode_makes_no_difference(self, make_network, make_images):
        GhorbaniTopK(make_network().train(), eps=0.1, alpha=0.03, steps=3, k=K)(make_images())

    def test_pixels_after_a_normalisation_are_noticed(self, make_network, make_images):
        attack = GhorbaniTopK(make_network(), eps=0.1, alpha=0.03, steps=3, k=K)
        attack.set_normalization_used([0.5], [0.25])
        with pytest.warns(UserWarning, match=r"all in \[0, 1\].*attack\.normalize"):
            attack(make_images())
        attack(attack.normalize(make_images()))  # the advice, followed


def test_the_radius_of_l2_is_one_number(make_network):
    with pytest.raises(ValueError, match=r"eps must be one number for L2\(\)"):
        GhorbaniTopK(make_network(), eps=torch.ones(8, 8) / 10, ball=L2())
