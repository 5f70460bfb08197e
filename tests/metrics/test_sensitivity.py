"""Sensitivities against Captum, against the literal formulas, and what they leave behind."""

from __future__ import annotations

import warnings
from functools import partial

import captum.metrics
import pytest
import torch
from captum.attr import DeepLift, FeatureAblation, InputXGradient, IntegratedGradients, Saliency
from torch import nn

from captum_robust.attacks import GhorbaniTopK, RandomSign
from captum_robust.attr import (
    BetaSmoothedGradient,
    BetaSmoothing,
    KernelSmoothing,
    differentiable,
)
from captum_robust.metrics import (
    explanation_stability,
    sensitivity_gradient,
    sensitivity_lipschitz,
    sensitivity_max,
)

RADIUS = 0.3


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Network(nn.Module):
    """Smooth or not, with a BatchNorm, a buffer and a second input."""

    def __init__(self, dtype=torch.float64, smooth=True):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.smooth = smooth
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.7, generator=rng(1))
        self.to(dtype).eval()

    def forward(self, x, y=None, scale=1.0):
        x = x.flatten(1) if y is None else x.flatten(1) + y.flatten(1).sum(1, keepdim=True) ** 2
        z = self.norm(self.first(x))
        return self.second(torch.tanh(z) if self.smooth else torch.relu(z)) * scale


def points(n=3, dtype=torch.float64, seed=2):
    return torch.randn(n, 4, generator=rng(seed), dtype=torch.float64).to(dtype)


def shifted(x, radius):
    """A perturbation of its own for every row, no randomness."""
    tensors = x if isinstance(x, tuple) else (x,)
    moved = tuple(
        t + radius * torch.sin(17.0 * torch.arange(t.numel())).view_as(t).to(t) for t in tensors
    )
    return moved if isinstance(x, tuple) else moved[0]


def uniform_copies(x, copies, generator, radius=RADIUS):
    """The default points, one copy of the batch after the other."""
    return [x + radius * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1)
            for _ in range(copies)]  # fmt: skip


def quiet(attribution):
    """Captum's attribute as a function that does not warn."""

    def explain(x, **kwargs):
        tensors = x if isinstance(x, tuple) else (x,)
        ready = tuple(t.detach().requires_grad_() for t in tensors)
        result = attribution.attribute(ready, **kwargs)
        return result if isinstance(x, tuple) else result[0]

    return explain


METRICS = {
    "max": sensitivity_max,
    "raw": partial(sensitivity_max, normalize=False),
    "lipschitz": sensitivity_lipschitz,
    "gradient": sensitivity_gradient,
    "stability": explanation_stability,
}
EVERY = pytest.mark.parametrize("name", METRICS)
WITH_POINTS = pytest.mark.parametrize("name", [n for n in METRICS if n != "gradient"])


# --- The numbers: max-sensitivity.


@pytest.mark.parametrize("batch", [None, 1, 4, 7])
@pytest.mark.parametrize("norm_ord", ["fro", 1, 2, 3.5, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bits_of_captum(batch, norm_ord, dtype):
    network, x = Network(dtype), points(dtype=dtype)
    arguments = {"perturb_radius": RADIUS, "n_perturb_samples": 5, "norm_ord": norm_ord,
                 "max_examples_per_batch": batch, "target": torch.tensor([0, 2, 1])}  # fmt: skip
    for method in (Saliency, InputXGradient, IntegratedGradients, FeatureAblation):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # captum's batch of one point
            want = captum.metrics.sensitivity_max(quiet(method(network)), x, shifted, **arguments)
        assert want.min() > 1e-3
        for explain in (method(network), method(network).attribute, quiet(method(network))):
            assert torch.equal(sensitivity_max(explain, x, shifted, **arguments), want)


def test_the_bits_of_captum_for_two_inputs_and_all_that_belongs_to_an_example():
    network, inputs = Network(), (points(), points(seed=3).view(3, 2, 2))
    arguments = {
        "perturb_radius": RADIUS, "n_perturb_samples": 4, "target": [0, 2, 1],
        "baselines": (points(seed=4), 0.0),
        "additional_forward_args": (torch.tensor([[1.0], [2.0], [3.0]]),),
    }  # fmt: skip
    method = IntegratedGradients(network)
    want = captum.metrics.sensitivity_max(quiet(method), inputs, shifted, **arguments)
    for batch in (None, 3, 6):
        got = sensitivity_max(method, inputs, shifted, max_examples_per_batch=batch, **arguments)
        if batch is None:
            assert torch.equal(got, want)
        assert got.shape == (3,)
    assert torch.equal(sensitivity_max(quiet(method), inputs, shifted, **arguments), want)


def test_random_draws_of_a_perturb_func_are_those_of_captum():
    def jitter(x, radius):
        return x + radius * torch.rand(x.shape, generator=generator, dtype=x.dtype)

    x, explain = points(40), quiet(Saliency(Network()))
    results = []
    for function in (captum.metrics.sensitivity_max, sensitivity_max):
        generator = rng()
        results.append(function(explain, x, jitter, n_perturb_samples=50, target=1))
    assert torch.equal(*results)


def test_max_against_the_definition():
    x, network = points(), Network()
    explain = quiet(Saliency(network))
    clean = explain(x, target=1)
    changes = [(explain(y, target=1) - clean).norm(dim=1)
               for y in uniform_copies(x, 6, rng())]  # fmt: skip
    want = torch.stack(changes).amax(0)
    run = partial(sensitivity_max, Saliency(network), x, target=1, perturb_radius=RADIUS,
                  n_perturb_samples=6)  # fmt: skip
    torch.testing.assert_close(run(normalize=False, generator=rng()), want)
    torch.testing.assert_close(run(generator=rng()), want / clean.norm(dim=1))


@pytest.mark.parametrize("size", [1e-30, 1e-42, 1e25])
def test_max_of_explanations_whose_squares_are_no_numbers(size):
    """Gradients of the probability of a class that the network rules out are so small."""
    x = torch.tensor([[1.0, 2.0], [3.0, 0.5]])
    unit = torch.tensor(size) * torch.tensor([[2.0**20], [2.0]])
    run = partial(sensitivity_max, perturb_func=lambda x: x + 1)
    want = run(lambda x: x**3, x)
    torch.testing.assert_close(run(lambda y: unit * y**3, x, max_examples_per_batch=2), want,
                               rtol=1e-5, atol=0.0)  # fmt: skip
    raw = run(lambda y: unit * y**3, x, max_examples_per_batch=2, normalize=False)
    change = (unit.double() * ((x.double() + 1) ** 3 - x.double() ** 3)).norm(dim=1)
    torch.testing.assert_close(raw.double(), change, rtol=1e-4, atol=0.0)


def test_a_zero_explanation_is_not_divided_and_warned_of():
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    explain = lambda x: x.clamp(min=0)  # noqa: E731
    with pytest.warns(UserWarning, match="all zero for 1 of 2"):
        value = sensitivity_max(explain, x, lambda x: x + 2.0)
    torch.testing.assert_close(value, torch.tensor([2.0, 2**0.5]))
    raw = sensitivity_max(explain, x, lambda x: x + 2.0, normalize=False)
    torch.testing.assert_close(raw, torch.tensor([8**0.5, 2**0.5]))


# --- The numbers: Lipschitz.


def test_lipschitz_against_the_definition():
    x, network = points(), Network()
    explain = quiet(Saliency(network))
    clean = explain(x, target=1)
    ratios = [(explain(y, target=1) - clean).norm(dim=1) / (y - x).norm(dim=1)
              for y in uniform_copies(x, 6, rng())]  # fmt: skip
    got = sensitivity_lipschitz(
        Saliency(network), x, None, RADIUS, 6, target=1, generator=rng(), max_examples_per_batch=7
    )
    torch.testing.assert_close(got, torch.stack(ratios).amax(0))


def test_lipschitz_of_a_linear_explanation_is_at_most_its_matrix_norm():
    matrix = torch.randn(4, 4, generator=rng(), dtype=torch.float64)
    _, values, v = torch.linalg.svd(matrix)
    x = points()
    got = sensitivity_lipschitz(lambda x: x @ matrix.T, x, generator=rng(), n_perturb_samples=50)
    assert (got < values[0]).all()
    assert (got > 0.7 * values[0]).all()
    along = sensitivity_lipschitz(lambda x: x @ matrix.T, x, lambda x: x + 1e-3 * v[0])
    torch.testing.assert_close(along, values[0].expand(3))


def test_lipschitz_takes_two_inputs_together():
    inputs = (points(), points(seed=3))
    got = sensitivity_lipschitz(
        lambda x: (2 * x[0], 0 * x[1]), inputs, lambda x: (x[0] + 3, x[1] + 4)
    )
    torch.testing.assert_close(got, torch.full((3,), 6 / 5, dtype=torch.float64))


def test_a_point_that_did_not_move_contributes_nothing():
    x = points()

    def only_the_first_moves(x):
        moved = x.clone()
        moved[0] += 1
        return moved

    got = sensitivity_lipschitz(lambda x: 3 * x, x, only_the_first_moves, n_perturb_samples=1)
    torch.testing.assert_close(got, torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64))
    noisy = iter(range(9))  # an explanation that differs at the same point
    assert (sensitivity_lipschitz(lambda x: x + next(noisy), x, lambda x: x) == 0).all()


# --- The numbers: the Jacobian.


def spectral_norms(method, x, **kwargs):
    """By the Jacobian, written out, of one example after the other."""
    norms = []
    for i in range(len(x)):
        one = {k: v[i : i + 1] if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
        jacobian = torch.autograd.functional.jacobian(
            lambda p, one=one: differentiable(method)(p, **one), x[i : i + 1]
        )
        norms.append(torch.linalg.matrix_norm(jacobian.reshape(x[i].numel(), -1), 2))
    return torch.stack(norms)


SMOOTH = {
    "Saliency": (Saliency, Network()),
    "InputXGradient": (InputXGradient, Network()),
    "InputXGradient, rectifiers": (InputXGradient, Network(smooth=False)),
    "IntegratedGradients": (partial(IntegratedGradients), Network()),
    "BetaSmoothedGradient": (partial(BetaSmoothedGradient, beta=3.0), Network(smooth=False)),
    "BetaSmoothing": (lambda f: BetaSmoothing(InputXGradient(f), 3.0), Network(smooth=False)),
}


@pytest.mark.parametrize("case", SMOOTH)
def test_gradient_against_the_jacobian(case):
    make, network = SMOOTH[case]
    method, x, target = make(network), points(5), torch.tensor([0, 1, 2, 0, 1])
    run = partial(sensitivity_gradient, method, x, target=target, tolerance=1e-10,
                  n_iterations=5000, generator=rng())  # fmt: skip
    at_x = spectral_norms(method, x, target=target)
    assert at_x.min() > 1e-3
    torch.testing.assert_close(run(0), at_x, rtol=1e-8, atol=0.0)
    around = run(RADIUS, 4)
    assert (around >= at_x * (1 - 1e-8)).all()
    assert (around > 1.001 * at_x).any()


def test_gradient_takes_the_largest_over_the_points():
    method, x, asked = Saliency(Network()), points(), []
    forward = method.forward_func
    method.forward_func = lambda x: (asked.append(x.detach().clone()), forward(x))[1]
    got = sensitivity_gradient(
        method, x, RADIUS, 6, 6, target=1, tolerance=1e-10, n_iterations=5000, generator=rng()
    )
    method.forward_func = forward
    seen = torch.cat([batch.unflatten(0, (3, -1)) for batch in asked], dim=1)
    assert seen.shape == (3, 7, 4)
    assert torch.equal(seen[:, 0], x)
    moved = (seen[:, 1:] - x.unsqueeze(1)).abs()
    assert 0.8 * RADIUS < moved.max() <= RADIUS
    each = torch.stack([spectral_norms(method, seen[:, j], target=1) for j in range(7)])
    torch.testing.assert_close(got, each.amax(0), rtol=1e-8, atol=0.0)


def test_gradient_of_two_inputs_is_that_of_the_whole_matrix():
    network, x, y = Network(), points(), points(seed=3).view(3, 2, 2)
    got = sensitivity_gradient(
        Saliency(network), (x, y), 0, target=1, tolerance=1e-10, n_iterations=5000, generator=rng()
    )

    def joint(both):
        a, b = both.split(4, dim=1)
        parts = differentiable(Saliency(network))((a, b.view(-1, 2, 2)), target=1)
        return torch.cat([p.flatten(1) for p in parts], dim=1)

    both = torch.cat([x, y.flatten(1)], dim=1)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(joint, both[i : i + 1]).reshape(8, 8)
        torch.testing.assert_close(got[i], torch.linalg.matrix_norm(jacobian, 2), rtol=1e-8, atol=0)


def test_gradient_of_two_inputs_of_which_one_has_no_second_derivative():
    """f = sum(x^3) + sum(y): the explanation of y is constant."""
    method = Saliency(lambda x, y: (x**3).sum(1) + y.sum(1))
    x, y = torch.tensor([[1.0, -2.0]]), torch.tensor([[5.0]])
    got = sensitivity_gradient(method, (x, y), 0, generator=rng())
    torch.testing.assert_close(got, torch.tensor([12.0]), rtol=1e-4, atol=0.0)


def test_gradient_of_a_network_of_rectifiers_is_zero_with_a_warning():
    with pytest.warns(UserWarning, match="BetaSmoothing"):
        got = sensitivity_gradient(Saliency(Network(smooth=False)), points(), target=1)
    assert torch.equal(got, torch.zeros(3, dtype=torch.float64))
    with pytest.warns(UserWarning, match="zero for 3 of 3"):
        got = sensitivity_gradient(Saliency(nn.Linear(4, 3).double()), points(), 0, target=1)
    assert torch.equal(got, torch.zeros(3, dtype=torch.float64))


def test_gradient_that_stops_early_says_so_and_is_not_above():
    method, x = Saliency(Network()), points()
    exact = spectral_norms(method, x, target=1)
    with pytest.warns(UserWarning, match="n_iterations=1 "):
        got = sensitivity_gradient(method, x, 0, target=1, n_iterations=1, generator=rng())
    assert (got <= exact).all()
    assert (got < 0.999 * exact).any()


def test_gradient_of_smoothed_noise_uses_one_draw_for_all_its_products():
    method = KernelSmoothing(Saliency(Network()))
    run = partial(sensitivity_gradient, method, points(), RADIUS, 3, target=1, n_samples=4,
                  radius=0.2, tolerance=1e-8, n_iterations=5000)  # fmt: skip
    got = run(generator=rng())
    assert torch.equal(got, run(generator=rng()))
    torch.testing.assert_close(got, run(generator=rng(), max_examples_per_batch=3))
    assert not torch.equal(got, run(generator=rng(1)))


# --- Every way to say what explains, and where the points come from.


@WITH_POINTS
def test_an_attribution_its_method_and_a_partial_are_one_and_leave_no_warning(name):
    method, x = Saliency(Network()), points()
    run = partial(METRICS[name], inputs=x, perturb_func=shifted, perturb_radius=RADIUS)
    want = run(lambda x: quiet(method)(x, target=1, abs=False))
    for explain in (method, method.attribute, partial(method.attribute, abs=False)):
        got = run(explain, target=1, **({} if isinstance(explain, partial) else {"abs": False}))
        assert torch.equal(got, want)
    assert not x.requires_grad


@WITH_POINTS
def test_perturb_func_with_and_without_the_radius_and_in_place(name):
    def in_place(x):
        return x.add_(RADIUS)

    x = points()
    kept = x.clone()
    run = partial(METRICS[name], lambda x: x**3, x, n_perturb_samples=1, perturb_radius=RADIUS)
    want = run(perturb_func=lambda x, radius: x + radius)
    torch.testing.assert_close(run(perturb_func=lambda x: x + RADIUS), want)
    torch.testing.assert_close(run(perturb_func=lambda x: (x + RADIUS,)), want)
    torch.testing.assert_close(run(perturb_func=in_place), want)
    assert torch.equal(x, kept)
    assert (run(perturb_func=torch.clone) < 1e-14).all()


class ImageNetwork(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


@WITH_POINTS
def test_the_points_of_an_attack(name):
    network = ImageNetwork()
    images = torch.rand(4, 1, 6, 6, generator=rng())
    labels = network(images).argmax(1)
    attack = GhorbaniTopK(network, alpha=0.02, steps=5, k=5, beta=5.0)
    run = partial(METRICS[name], Saliency(network), images, target=labels, perturb_radius=0.1)
    found = attack(images, labels, eps=0.1)
    got = run(attack.perturb_func(labels), n_perturb_samples=1)
    torch.testing.assert_close(got, run(lambda x: found, n_perturb_samples=1))
    assert (got > 0).any()
    two = [
        run(RandomSign(network, generator=rng()).perturb_func(labels), n_perturb_samples=3,
            max_examples_per_batch=batch) for batch in (None, 4)
    ]  # fmt: skip
    torch.testing.assert_close(*two)


@WITH_POINTS
def test_the_default_points_fill_the_ball_and_leave_the_inputs(name):
    seen = []

    def explain(x):
        seen.append(x.clone())
        return x**2

    x = points(2)
    METRICS[name](explain, x, None, RADIUS, 400)
    clean, around = seen[0], torch.cat([s.unflatten(0, (2, -1)) for s in seen[1:]], 1)
    assert torch.equal(clean, x)
    moved = around - x.unsqueeze(1)
    assert moved.shape == (2, 400, 4)
    assert moved.abs().max() <= RADIUS
    assert (moved.amax((0, 1)) > 0.95 * RADIUS).all()
    assert (moved.amin((0, 1)) < -0.95 * RADIUS).all()
    assert moved.mean().abs() < 0.1 * RADIUS


# --- Contracts.


@EVERY
@pytest.mark.parametrize("batch", [1, 3, 5, 6, 100])
def test_no_result_depends_on_the_batches(name, batch):
    run = partial(METRICS[name], Saliency(Network()), points(), target=torch.tensor([0, 2, 1]),
                  perturb_radius=RADIUS, n_perturb_samples=5)  # fmt: skip
    got = run(generator=rng(), max_examples_per_batch=batch)
    torch.testing.assert_close(got, run(generator=rng()), rtol=1e-5, atol=0.0)
    assert not torch.allclose(got, run(generator=rng(1)))


@WITH_POINTS
def test_no_noise_is_taken_for_a_change(name):
    """The explanation of a quadratic is linear, so its noise is the same at every point."""
    method, x = KernelSmoothing(Saliency(lambda x: (x**2).sum(1))), points(3).abs() + 3
    run = partial(METRICS[name], method, x, perturb_radius=0.1, n_samples=2, radius=1.0, abs=False)
    got = run(generator=rng())
    plain = METRICS[name](Saliency(lambda x: (x**2).sum(1)), x, perturb_radius=0.1, generator=rng())
    assert got.max() < 3 * plain.max()
    for batch in (1, 7, 30):
        torch.testing.assert_close(run(generator=rng(), max_examples_per_batch=batch), got)
    if name == "lipschitz":
        torch.testing.assert_close(got, torch.full_like(got, 2.0))
    assert not torch.equal(run(), run())


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision(name, dtype):
    run = partial(METRICS[name], perturb_radius=RADIUS, generator=rng(), target=1)
    got = run(Saliency(Network(dtype)), points(dtype=dtype), generator=rng(), **(
        {"tolerance": 0.1} if name == "gradient" and dtype.itemsize == 2 else {}
    ))  # fmt: skip
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got.shape == (3,)
    if dtype != torch.float64:  # the draws differ
        exact = run(Saliency(Network()), points(), generator=rng(), n_perturb_samples=10)
        torch.testing.assert_close(got.double(), exact, rtol=0.6, atol=0.0)


@EVERY
def test_arguments_with_a_graph_of_their_own(name):
    scale = torch.ones(3, 1, requires_grad=True, dtype=torch.float64) * 2
    run = partial(METRICS[name], Saliency(Network()), points(), perturb_radius=RADIUS, target=1)
    got = run(additional_forward_args=(None, scale), generator=rng())
    assert not got.requires_grad
    plain = run(additional_forward_args=(None, 2.0), generator=rng())
    torch.testing.assert_close(got, plain)


@EVERY
def test_inputs_with_a_graph_and_requires_grad_stay(name):
    leaf = points().requires_grad_()
    for x in (leaf, 2 * leaf):
        METRICS[name](Saliency(Network()), x, target=1, generator=rng())
        assert x.requires_grad
    assert leaf.grad is None


@EVERY
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(name, training, fails):
    network = Network()
    network.train(training)
    network.first.weight.grad = torch.ones_like(network.first.weight)
    network.norm.eval()
    network.second.weight.requires_grad_(False)
    calls, forward = [], network.forward

    def failing(*args):
        calls.append(1)
        if fails and len(calls) > 1:
            raise RuntimeError("from the model")
        return forward(*args)

    network.forward = failing
    before = {k: v.clone() for k, v in network.state_dict().items()}
    flags = [m.training for m in network.modules()]
    state, x, target = torch.get_rng_state(), points(), torch.tensor([0, 2, 1])
    arguments = {"target": target, "additional_forward_args": (None, 1.0)}
    run = partial(METRICS[name], Saliency(network), x, **arguments)
    if fails:
        with pytest.raises(RuntimeError, match="from the model"):
            run()
    else:
        run()
    assert len(calls) > 1
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert [m.training for m in network.modules()] == flags
    assert torch.equal(network.first.weight.grad, torch.ones_like(network.first.weight))
    assert network.second.weight.grad is None
    assert not network.second.weight.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert not x.requires_grad
    assert arguments["target"] is target


@EVERY
def test_statistics_of_a_network_in_training_mode_stay(name):
    network = Network().train()
    before = network.norm.running_mean.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows that interact need not converge
        METRICS[name](Saliency(network), points(8), target=1, generator=rng())
    assert torch.equal(network.norm.running_mean, before)


@EVERY
def test_a_bar_on_request(name, capsys):
    run = partial(METRICS[name], Saliency(Network()), points(), target=1)
    run()
    assert capsys.readouterr().err == ""
    run(show_progress=True)
    assert "100%" in capsys.readouterr().err


def test_methods_that_hook_the_model():
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x = points()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum's, of the hooks that it sets
        got = sensitivity_max(
            DeepLift(network), x, shifted, RADIUS, 4, target=1, baselines=torch.zeros_like(x[:1])
        )
    assert got.shape == (3,)
    assert (got > 0).all()
    assert not any(m._forward_hooks for m in network.modules())


# --- Errors.


BAD_INPUTS = {
    "empty": (torch.empty(0, 4), ValueError, "inputs is empty"),
    "scalar": (torch.tensor(1.0), ValueError, "batch dimension"),
    "nan": (torch.tensor([[float("nan")] * 4]), ValueError, "NaN or Inf"),
    "inf": (torch.tensor([[float("inf")] * 4]), ValueError, "NaN or Inf"),
    "unequal": ((torch.ones(2, 4), torch.ones(3, 4)), ValueError, "same examples"),
    "list": ([torch.ones(2, 4)], TypeError, "inputs must be"),
    "integers": (torch.ones(2, 4, dtype=torch.long), ValueError, "floating-point"),
}
BAD_ARGUMENTS = {
    "radius -1": ({"perturb_radius": -1.0}, ValueError, "perturb_radius"),
    "radius nan": ({"perturb_radius": float("nan")}, ValueError, "perturb_radius"),
    "radius text": ({"perturb_radius": "0.1"}, TypeError, "perturb_radius"),
    "samples 0": ({"n_perturb_samples": 0}, ValueError, "n_perturb_samples"),
    "samples 1.5": ({"n_perturb_samples": 1.5}, TypeError, "n_perturb_samples"),
    "batch 0": ({"max_examples_per_batch": 0}, ValueError, "max_examples_per_batch"),
    "generator": ({"generator": 3}, TypeError, "generator"),
    "delta": ({"return_convergence_delta": True}, ValueError, "return_convergence_delta"),
}
BAD_FOR_POINTS = {
    "radius 0": ({"perturb_radius": 0}, ValueError, "perturb_radius"),
    "perturb_func": ({"perturb_func": 3}, TypeError, "perturb_func"),
    "shape": ({"perturb_func": lambda x: x[:-1]}, ValueError, "perturb_func must return"),
    "kind": ({"perturb_func": lambda x: None}, ValueError, "perturb_func must return"),
    "two": ({"perturb_func": lambda x: (x, x)}, ValueError, "perturb_func must return"),
    "nan": ({"perturb_func": lambda x: x * float("nan")}, ValueError, "perturb_func returned NaN"),
}


@EVERY
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs(name, case):
    inputs, error, message = BAD_INPUTS[case]
    with pytest.raises(error, match=message):
        METRICS[name](Saliency(Network(torch.float32)), inputs, target=1)


@EVERY
@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(name, case):
    arguments, error, message = BAD_ARGUMENTS[case]
    with pytest.raises(error, match=message):
        METRICS[name](Saliency(Network()), points(), target=1, **arguments)


@WITH_POINTS
@pytest.mark.parametrize("case", BAD_FOR_POINTS)
def test_bad_points(name, case):
    arguments, error, message = BAD_FOR_POINTS[case]
    with pytest.raises(error, match=message):
        METRICS[name](Saliency(Network()), points(), target=1, **arguments)


@WITH_POINTS
@pytest.mark.parametrize(
    ("explain", "error", "message"),
    [
        (3, TypeError, "explanation_func must be"),
        (lambda x: None, TypeError, "explanation_func must return"),
        (lambda x: (), TypeError, "explanation_func must return"),
        (lambda x: x > 0, TypeError, "torch.bool"),
        (lambda x: x.sum(), ValueError, "one explanation for each of its 3"),
        (lambda x: x[:1], ValueError, "one explanation for each of its 3"),
        (lambda x: x[:, :0], ValueError, "one explanation for each of its 3"),
        (lambda x: x / 0, ValueError, "explanation_func returned NaN or Inf"),
    ],
)
def test_bad_explanations(name, explain, error, message):
    with pytest.raises(error, match=message):
        METRICS[name](explain, points())


@pytest.mark.parametrize("norm_ord", ["nuc", 0, 0.5, -1, float("nan"), None])
def test_bad_norms(norm_ord):
    with pytest.raises(ValueError, match="norm_ord"):
        sensitivity_max(Saliency(Network()), points(), norm_ord=norm_ord, target=1)


@pytest.mark.parametrize("method", [FeatureAblation(Network()), lambda x: x, 3])
def test_gradient_of_what_has_none(method):
    with pytest.raises(TypeError, match=r"graph|Attribution"):
        sensitivity_gradient(method, points())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_iterations": 0}, ValueError, "n_iterations"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"tolerance": "small"}, TypeError, "tolerance"),
    ],
)
def test_bad_arguments_of_the_iteration(arguments, error, message):
    with pytest.raises(error, match=message):
        sensitivity_gradient(Saliency(Network()), points(), target=1, **arguments)


def test_a_jacobian_that_is_not_finite():
    """The gradient of x^1.5 is 0 at 0, its derivative infinite."""
    method = Saliency(lambda x: (x**1.5).sum(1))
    with pytest.raises(ValueError, match="Jacobian with NaN or Inf"):
        sensitivity_gradient(method, torch.tensor([[0.0, 1.0]]), 0)
