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


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Network(nn.Module):
    """Layers with and without parameters, attention, a normalised weight and loose parameters."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8, generator=rng(9)))
        self.embed = nn.Linear(4, 8)
        self.act = nn.Sequential(nn.LeakyReLU(), nn.Dropout(0.5))  # no draw makes it constant
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.BatchNorm1d(8)
        self.old_norm = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)
        with torch.no_grad():  # "learned": nothing is as a fresh layer has it
            for parameter in self.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng(3)))
        self.eval()

    def forward(self, x, scale=1.0):
        z = self.act(self.embed(x))
        z = torch.cat([self.token.expand(len(x), -1, -1), z], dim=1)
        z = z + self.attention(z, z, z, need_weights=False)[0]
        z = self.norm(z.mean(1))
        return self.head(nn.functional.leaky_relu(self.old_norm(z))) * scale  # never constant


CASCADE = [
    "head",
    "old_norm.parametrizations.weight",
    "old_norm",
    "norm",
    "attention.out_proj",
    "attention",
    "embed",
    "",
]


def batch(n=5):
    return torch.randn(n, 3, 4, generator=rng(2)), torch.arange(n) % 3


def parameters_of(network):
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def watched(network, steps):
    """A function that explains by the gradient and notes the parameters each time."""
    method = Saliency(network)

    def explain(x, **kwargs):
        steps.append(parameters_of(network))
        return method.attribute(x.detach().requires_grad_(), abs=False, **kwargs)

    return explain


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


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


# --- What stays.


@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.parametrize("fails", [0, 1, 4])
def test_the_model_is_as_before(cumulative, fails):
    network = Network().train()
    network.attention.eval()
    network.embed.weight.grad = torch.full_like(network.embed.weight, 2.0)
    network.token.requires_grad_(False)
    with torch.no_grad():
        network.head.bias[0] = float("nan")
        network.head.bias[0] = 1e-40  # not a normal number
    state = {k: v.clone() for k, v in network.state_dict().items()}
    tensors = list(network.parameters()) + list(network.buffers())
    flags = [(m.training, len(m._forward_hooks)) for m in network.modules()]
    gradients = [(p.requires_grad, p.grad) for p in network.parameters()]
    x, target = batch()
    calls = []

    def explain(x, target):
        calls.append(1)
        network(x)  # moves the statistics of the BatchNorm
        network.norm.eval()
        if len(calls) == fails:
            raise RuntimeError("from the model")
        return Saliency(network).attribute(x.detach().requires_grad_(), target=target)

    if fails == 1:  # nothing was preserved yet: what the function did itself is its own
        network.norm.register_forward_pre_hook(lambda m, a: (_ for _ in ()).throw(RuntimeError()))
        with pytest.raises(RuntimeError):
            parameter_randomization(Saliency(network), x, target=target, cumulative=cumulative)
        network.norm._forward_pre_hooks.clear()
    elif fails:
        with pytest.raises(RuntimeError, match="from the model"):
            parameter_randomization(explain, x, network, target=target, cumulative=cumulative)
        assert len(calls) == fails
    else:
        parameter_randomization(Saliency(network), x, target=target, cumulative=cumulative)
    if fails != 4:
        assert flags == [(m.training, len(m._forward_hooks)) for m in network.modules()]
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name])
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, state[name])
    assert all(
        a is b for a, b in zip(tensors, [*network.parameters(), *network.buffers()], strict=True)
    )
    for (flag, gradient), p in zip(gradients, network.parameters(), strict=True):
        assert p.requires_grad == flag
        assert p.grad is gradient
    assert (network.embed.weight.grad == 2).all()


def test_a_reset_that_puts_new_parameters_in_place():
    class Replacing(nn.Linear):
        def reset_parameters(self):
            super().reset_parameters()
            if hasattr(self, "ready"):
                self.weight = nn.Parameter(torch.rand(3, 4))

    network = Replacing(4, 3)
    network.ready, weight = True, network.weight
    steps = []
    parameter_randomization(watched(network, steps), torch.rand(2, 4), network, target=1)
    assert changed(*steps) == {"weight", "bias"}
    assert network.weight is weight
    assert not changed(steps[0], parameters_of(network))


def test_the_global_random_state_stays():
    network = Network()
    x, target = batch()
    state = torch.get_rng_state()
    parameter_randomization(Saliency(network), x, target=target)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    seen = []

    def explain(x):
        seen.append(torch.rand(1).item())  # an explanation's own draws go on
        return x

    parameter_randomization(explain, x, network)
    torch.manual_seed(7)
    assert seen == [torch.rand(1).item() for _ in seen]
    assert not x.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_random_state_of_the_gpu_stays():
    network = Network().cuda()
    x, target = (t.cuda() for t in batch())
    state, steps = torch.cuda.get_rng_state(), []
    run = partial(parameter_randomization, watched(network, steps), x, network, target=target)
    run(generator=rng())
    run(generator=rng())
    assert torch.equal(torch.cuda.get_rng_state(), state)
    half = len(steps) // 2
    for first, second in zip(steps[:half], steps[half:], strict=True):
        assert not changed(first, second)


def test_a_bar_on_request(capsys):
    network = nn.Linear(4, 3)
    for show in (False, True):
        parameter_randomization(Saliency(network), torch.rand(2, 4), target=1, show_progress=show)
        assert ("100%" in capsys.readouterr().err) == show


# --- Errors.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": ["fc"]}, ValueError, r"'fc' is no module of the model. It has \['', 'embed'"),
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
