"""The randomisation of parameters: what is randomised, what is compared, what stays."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import scipy.stats
import torch
from captum.attr import InputXGradient, NoiseTunnel, Saliency
from torch import nn

from captum_robust.attr import BetaSmoothing, KernelSmoothing
from captum_robust.metrics import RankCorrelations, parameter_randomization
from tests.metrics.helpers import rng
from tests.metrics.randomized import CASCADE, Network, batch, changed, parameters_of, watched

# --- What is randomised.


def test_the_cascade_goes_down_from_the_output_and_keeps_what_it_did():
    network, steps = Network(), []
    x, target = batch()
    result = parameter_randomization(watched(network, steps), x, network, target=target)
    assert list(result) == CASCADE
    assert len(steps) == 1 + len(CASCADE)
    owned = {
        "head": {"head.weight", "head.bias"},
        "old_norm.parametrizations.weight": {
            "old_norm.parametrizations.weight.original0",
            "old_norm.parametrizations.weight.original1",
        },
        "old_norm": {"old_norm.bias"},
        "norm": {"norm.weight", "norm.bias"},
        "attention.out_proj": {"attention.out_proj.weight", "attention.out_proj.bias"},
        "attention": {"attention.in_proj_weight", "attention.in_proj_bias"},
        "embed": {"embed.weight", "embed.bias"},
        "": {"token"},
    }
    for name, before, after in zip(CASCADE, steps, steps[1:], strict=False):
        assert changed(before, after) == owned[name]


@pytest.mark.parametrize("cumulative", [True, False])
def test_named_layers_in_the_order_of_their_names(cumulative):
    network, steps = Network(), []
    x, target = batch()
    result = parameter_randomization(
        watched(network, steps), x, network, layers=["attention", "head", "embed"],
        cumulative=cumulative, target=target,
    )  # fmt: skip
    assert list(result) == ["attention", "head", "embed"]
    attention = {f"attention.{n}" for n, _ in network.attention.named_parameters()}
    head, embed = {"head.weight", "head.bias"}, {"embed.weight", "embed.bias"}
    got = [changed(steps[0], after) for after in steps[1:]]
    if cumulative:
        assert got == [attention, attention | head, attention | head | embed]
    else:
        assert got == [attention, head, embed]


def test_the_draws_are_those_of_reset_parameters():
    network = nn.Sequential(nn.Linear(4, 400), nn.ReLU(), nn.Linear(400, 3))
    with torch.no_grad():
        network[2].weight.fill_(7.0)
    steps = []
    parameter_randomization(
        watched(network, steps), torch.rand(2, 4), network, layers=["2"], target=1
    )
    weight = steps[1]["2.weight"]
    bound = 1 / 400**0.5  # of torch's linear layers
    assert 0.95 * bound < weight.abs().max() <= bound
    assert steps[1]["2.bias"].abs().max() <= bound


def test_what_no_module_resets_is_drawn_like_the_old_numbers():
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(5 + 0.1 * torch.randn(50, 40, generator=rng()))
            self.scale = nn.Parameter(torch.tensor(3.0))

        def forward(self, x):
            return x @ self.weight.T * self.scale

    network, steps = Loose(), []
    parameter_randomization(
        watched(network, steps), torch.rand(2, 40), network, target=1, generator=rng()
    )
    before, after = steps
    assert abs(after["weight"].mean() - 5) < 0.02
    assert abs(after["weight"].std() - 0.1) < 0.02
    assert (after["weight"] != before["weight"]).all()
    assert after["scale"] != before["scale"]


def test_the_generator_decides_and_layers_differ():
    network = Network()
    x, target = batch()
    run = partial(parameter_randomization, Saliency(network), x, target=target, abs=False)
    first, again, other = run(generator=rng()), run(generator=rng()), run(generator=rng(1))
    fresh = [run()["embed"].signed for _ in range(2)]
    for name in first:
        assert torch.equal(first[name].signed, again[name].signed)
    assert not torch.equal(first["embed"].signed, other["embed"].signed)
    assert not torch.equal(*fresh)
    twins = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    steps = []
    parameter_randomization(watched(twins, steps), torch.rand(2, 4), twins, target=1)
    assert not torch.equal(steps[-1]["0.weight"], steps[-1]["2.weight"])


# --- What is compared.


def test_correlations_against_scipy():
    network, explanations = Network(), []
    x, target = batch()
    method = InputXGradient(network)

    def explain(x, target):
        explanations.append(method.attribute(x.detach().requires_grad_(), target=target))
        return explanations[-1]

    result = parameter_randomization(explain, x, network, target=target, generator=rng())
    original = explanations[0].detach().flatten(1).numpy()
    for c, randomised in zip(result.values(), explanations[1:], strict=True):
        b = randomised.detach().flatten(1).numpy()
        for i in range(len(x)):
            signed = scipy.stats.spearmanr(original[i], b[i]).statistic
            absolute = scipy.stats.spearmanr(abs(original[i]), abs(b[i])).statistic
            assert abs(c.signed[i] - signed) < 1e-6
            assert abs(c.absolute[i] - absolute) < 1e-6
    assert isinstance(result["head"], RankCorrelations)
    assert result["head"].signed.shape == (5,)
    assert not torch.equal(result["head"].signed, result["head"].absolute)
    bare = parameter_randomization(method, x, target=target, generator=rng())
    for name, c in result.items():
        assert torch.equal(c.signed, bare[name].signed)


def test_an_explanation_that_ignores_the_model_fails_the_check():
    network = Network()
    result = parameter_randomization(lambda x: x**3, batch()[0], network)
    for c in result.values():
        assert torch.equal(c.signed, torch.ones(5))
        assert torch.equal(c.absolute, torch.ones(5))


def test_two_inputs_are_one_explanation():
    network = nn.Bilinear(4, 3, 2)
    x, y = torch.randn(5, 4), torch.randn(5, 3)
    method = Saliency(network)
    got = parameter_randomization(method, (x, y), target=1, abs=False, generator=rng())[""]
    seen = []

    def explain(inputs):
        parts = method.attribute(
            tuple(t.detach().requires_grad_() for t in inputs), target=1, abs=False
        )
        seen.append(torch.cat(parts, dim=1))
        return parts

    again = parameter_randomization(explain, (x, y), network, generator=rng())[""]
    assert torch.equal(got.signed, again.signed)
    for i in range(5):
        want = scipy.stats.spearmanr(seen[0][i].numpy(), seen[1][i].numpy()).statistic
        assert abs(got.signed[i] - want) < 1e-6


@pytest.mark.parametrize(
    ("wrap", "arguments"),
    [
        (BetaSmoothing, {}),
        (KernelSmoothing, {"n_samples": 4, "radius": 0.1}),
        (lambda m: BetaSmoothing(KernelSmoothing(m)), {"n_samples": 4}),
        (NoiseTunnel, {"nt_samples": 2, "stdevs": 0.1}),
    ],
)
def test_wrapped_explanations(wrap, arguments):
    network = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    x, target = torch.randn(6, 4), torch.arange(6) % 3
    run = partial(parameter_randomization, layers=["2"], target=target, abs=False)
    before = parameters_of(network)
    method = wrap(Saliency(network))
    got = run(method, x, generator=rng(), **arguments)["2"]
    assert got.signed.min() < 0.9
    assert not changed(before, parameters_of(network))
    if "n_samples" in arguments:
        assert torch.equal(got.signed, run(method, x, generator=rng(), **arguments)["2"].signed)


def test_the_noise_is_the_same_for_both_models():
    """With independent noise even the untouched model would not agree with itself."""
    network = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    unused = nn.ModuleDict({"used": network, "unused": nn.Linear(2, 2)})
    method = KernelSmoothing(Saliency(network))
    result = parameter_randomization(
        method, torch.randn(6, 4), unused, layers=["unused"], target=1, n_samples=2, radius=2.0,
        abs=False,
    )  # fmt: skip
    assert torch.equal(result["unused"].signed, torch.ones(6))


def test_a_function_around_the_model():
    network = Network()
    x, target = batch()

    def forward(x):
        return torch.log_softmax(network(x), dim=1)

    with pytest.raises(TypeError, match="model=") as raised:
        parameter_randomization(Saliency(forward), x, target=target)
    assert "Pass the" in str(raised.value)
    result = parameter_randomization(Saliency(forward), x, network, target=target)
    assert list(result) == CASCADE
    bound = parameter_randomization(Saliency(network.forward), x, target=target, layers=["head"])
    assert list(bound) == ["head"]


def test_constant_explanations_count_as_zero_with_a_warning():
    network = nn.Sequential(nn.Linear(4, 3))
    with pytest.warns(UserWarning, match=r"constant .*\['0'\]"):
        got = parameter_randomization(lambda x: x * 0 + 1, torch.rand(2, 4), network)
    assert torch.equal(got["0"].signed, torch.zeros(2))
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    with pytest.warns(UserWarning, match="absolute value"):
        got = parameter_randomization(lambda x: signs, torch.rand(1, 4), network)
    assert torch.equal(got["0"].signed, torch.ones(1))
    assert torch.equal(got["0"].absolute, torch.zeros(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision(dtype):
    network = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(), nn.Linear(6, 3)).to(dtype)
    got = parameter_randomization(Saliency(network), torch.rand(2, 4).to(dtype), target=1)
    assert list(got) == ["2", "0"]
    want = torch.float64 if dtype == torch.float64 else torch.float32
    assert got["0"].signed.dtype == want


def test_a_bar_on_request(capsys):
    network = nn.Linear(4, 3)
    for show in (False, True):
        parameter_randomization(Saliency(network), torch.rand(2, 4), target=1, show_progress=show)
        assert ("100%" in capsys.readouterr().err) == show


# --- Errors.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"layers": ["fc"]},
            ValueError,
            r"'fc' is not a module.*It has \['', 'embed'",
        ),
        ({"layers": ["act"]}, ValueError, "'act' has no parameters"),
        ({"layers": []}, ValueError, "layers is empty"),
        ({"layers": "head"}, TypeError, "layers must be a list"),
        ({"layers": [3]}, TypeError, "layers must be a list"),
        ({"model": lambda x: x}, TypeError, "model must be a torch.nn.Module"),
        ({"model": nn.ReLU()}, ValueError, "model has no parameters"),
        ({"generator": 3}, TypeError, "generator"),
        ({"return_convergence_delta": True}, ValueError, "return_convergence_delta"),
        ({"inputs": torch.empty(0, 3, 4)}, ValueError, "inputs is empty"),
        ({"inputs": torch.full((5, 3, 4), torch.nan)}, ValueError, "NaN or Inf"),
        ({"explanation_func": 3, "model": Network()}, TypeError, "explanation_func must be"),
    ],
)
def test_errors(arguments, error, message):
    x, target = batch()
    defaults = {"explanation_func": Saliency(Network()), "inputs": x, "target": target}
    with pytest.raises(error, match=message):
        parameter_randomization(**{**defaults, **arguments})


def test_a_randomised_model_that_explodes_is_an_error_and_given_back():
    class Exploding(nn.Linear):
        def reset_parameters(self):
            with torch.no_grad():
                self.weight.fill_(1.0 if not hasattr(self, "ready") else torch.inf)

    network = Exploding(4, 3, bias=False)
    network.ready = True
    with pytest.raises(ValueError, match="NaN or Inf"), warnings.catch_warnings():
        parameter_randomization(Saliency(network), torch.rand(2, 4), target=1)
    assert (network.weight == 1).all()
